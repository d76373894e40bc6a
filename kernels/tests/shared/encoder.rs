//! What encoders need, on every device, against plain f64 loops.

use weirgate_kernels::{
    Activation, Backend, BidirectionalParams, EmbeddingTables, EncoderBackend, LayerNorm, PackedInputs,
    PackedLimits, PoolingKind, RelativeBias,
};

use crate::common::{DTYPES, Rng, assert_close, bits, buffer, matrix, rounded, values};
use crate::devices::{Device, TOLERANCE, devices};
use crate::references::act;

/// Sequences of odd lengths: shorter than a tile, of one more than a panel, of several panels.
const LENGTHS: [usize; 7] = [1, 2, 5, 17, 16, 63, 130];
const LIMITS: PackedLimits = PackedLimits { tokens: 300, seqs: 8, seq_len: 140, head_dim: 100 };

fn ends(lengths: &[usize]) -> Vec<u32> {
    lengths.iter().fold(vec![0], |mut cu, len| {
        cu.push(cu[cu.len() - 1] + *len as u32);
        cu
    })
}

/// Sequences of these lengths, for ops that read nothing else of a step.
fn packed(device: &mut Device, lengths: &[usize]) -> <Device as EncoderBackend>::Packed {
    let cu = ends(lengths);
    let zeros = vec![0; cu[lengths.len()] as usize];
    let mut packed = device.packed(LIMITS).unwrap();
    let inputs = PackedInputs { ids: &zeros, positions: &zeros, types: &zeros, cu: &cu, rope: &[] };
    device.pack(&mut packed, &inputs).unwrap();
    packed
}

fn normed(x: &[f64], weight: &[f32], bias: Option<&[f32]>, eps: f32) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (variance + f64::from(eps)).sqrt();
    let bias = |i: usize| bias.map_or(0.0, |bias| f64::from(bias[i]));
    x.iter().enumerate().map(|(i, x)| (x - mean) * scale * f64::from(weight[i]) + bias(i)).collect()
}

#[test]
fn layer_norm_alone_and_of_a_sum() {
    for (rows, cols, with_bias) in [(1, 1, true), (3, 17, false), (70, 384, true), (5, 333, true)] {
        let mut rng = Rng::new(cols as u64);
        let (x, delta) = (rng.values(rows * cols), rng.values(rows * cols));
        let (weight, bias) = (rng.values(cols), rng.values(cols));
        let given = with_bias.then_some(bias.as_slice());
        let want = |add: bool| -> Vec<f64> {
            let sum = |i: usize| f64::from(x[i]) + if add { f64::from(delta[i]) } else { 0.0 };
            let row = |row: usize| (row * cols..(row + 1) * cols).map(sum).collect::<Vec<f64>>();
            (0..rows).flat_map(|r| normed(&row(r), &weight, given, 1e-5)).collect()
        };
        for mut device in devices(3) {
            let (weight, bias) = (buffer(&device, &weight), buffer(&device, &bias));
            let norm = LayerNorm { weight: &weight, bias: with_bias.then_some(&bias), eps: 1e-5 };
            let (mut hidden, delta) = (buffer(&device, &x), buffer(&device, &delta));
            let mut out = device.buffer(rows * cols).unwrap();
            device.layer_norm(&mut out, &hidden, &norm, rows).unwrap();
            assert_close(&values(&device, &out, rows * cols), &want(false), 2e-5, "layer_norm");
            device.add_layer_norm(&mut hidden, &delta, &norm, rows).unwrap();
            assert_close(&values(&device, &hidden, rows * cols), &want(true), 2e-5, "add_layer_norm");
        }
    }
}

#[test]
fn embeddings_are_summed_and_normalised() {
    let (hidden, lengths) = (37, [3, 1]);
    let mut rng = Rng::new(4);
    let (words, positions, types) = (rng.values(11 * hidden), rng.values(6 * hidden), rng.values(2 * hidden));
    let (weight, bias) = (rng.values(hidden), rng.values(hidden));
    let (ids, at, kinds) = ([10, 0, 7, 3], [2, 3, 5, 2], [0, 1, 1, 0]);
    for all in [true, false] {
        let row = |token: usize, col: usize| {
            let word = f64::from(words[ids[token] as usize * hidden + col]);
            let position = f64::from(positions[at[token] as usize * hidden + col]);
            let kind = f64::from(types[kinds[token] as usize * hidden + col]);
            if all { word + position + kind } else { word }
        };
        let want: Vec<f64> = (0..4)
            .flat_map(|t| {
                let row: Vec<f64> = (0..hidden).map(|col| row(t, col)).collect();
                normed(&row, &weight, Some(&bias), 1e-12)
            })
            .collect();
        for mut device in devices(2) {
            let inputs =
                PackedInputs { ids: &ids, positions: &at, types: &kinds, cu: &ends(&lengths), rope: &[] };
            let mut packed = device.packed(LIMITS).unwrap();
            device.pack(&mut packed, &inputs).unwrap();
            let [words, positions, types, weight, bias] =
                [&words, &positions, &types, &weight, &bias].map(|v| buffer(&device, v));
            let tables = EmbeddingTables {
                words: &words,
                positions: all.then_some(&positions),
                types: all.then_some(&types),
            };
            let norm = LayerNorm { weight: &weight, bias: Some(&bias), eps: 1e-12 };
            let mut out = device.buffer(4 * hidden).unwrap();
            device.embed_packed(&mut out, &tables, &norm, &packed).unwrap();
            assert_close(&values(&device, &out, 4 * hidden), &want, 2e-5, "embed_packed");
        }
    }
}

#[test]
fn linear_with_an_activation() {
    for (rows, inputs, outputs) in [(1, 40, 70), (3, 300, 33), (50, 17, 129)] {
        let mut rng = Rng::new(rows as u64);
        let (x, w, bias) = (rng.values(rows * inputs), rng.values(inputs * outputs), rng.values(outputs));
        let (tanh, relu, silu) = (Activation::Tanh, Activation::Relu, Activation::Silu);
        let activations = [tanh, relu, silu, Activation::Gelu, Activation::GeluTanh];
        for (activation, dtype) in activations.into_iter().zip(DTYPES.into_iter().cycle()) {
            let want: Vec<f64> = (0..rows * outputs)
                .map(|i| {
                    let (r, o) = (i / outputs, i % outputs);
                    let terms = (0..inputs)
                        .map(|c| f64::from(x[r * inputs + c]) * f64::from(rounded(dtype, w[o * inputs + c])));
                    act(activation, terms.sum::<f64>() + f64::from(bias[o]))
                })
                .collect();
            for mut device in devices(2) {
                let weights = matrix(&device, dtype, outputs, inputs, &w);
                let (x, bias) = (buffer(&device, &x), buffer(&device, &bias));
                let mut out = device.buffer(rows * outputs).unwrap();
                device.linear_act(&mut out, &x, &weights, Some(&bias), activation, rows).unwrap();
                assert_close(&values(&device, &out, rows * outputs), &want, TOLERANCE, "linear_act");
            }
        }
    }
}

/// One case of attention.
struct Case {
    heads: usize,
    head_dim: usize,
    window: Option<u32>,
    bias: bool,
}

const STRIDE: usize = 2 * LIMITS.seq_len + 16;
const CENTER: usize = LIMITS.seq_len;

/// Of one sequence, `qkv` `[len, 3 * heads * head_dim]`.
fn attention(case: &Case, qkv: &[f32], table: &[f32]) -> Vec<f64> {
    let Case { heads, head_dim, window, bias } = *case;
    let width = heads * head_dim;
    let len = qkv.len() / (3 * width);
    let at = |which: usize, token: usize, head: usize, dim: usize| {
        f64::from(qkv[token * 3 * width + which * width + head * head_dim + dim])
    };
    let mut out = Vec::new();
    for i in 0..len {
        for h in 0..heads {
            let seen: Vec<usize> =
                (0..len).filter(|j| i.abs_diff(*j) <= window.unwrap_or(9999) as usize).collect();
            let score = |j: usize| {
                let dot: f64 = (0..head_dim).map(|d| at(0, i, h, d) * at(1, j, h, d)).sum();
                let bias = if bias { f64::from(table[h * STRIDE + CENTER + j - i]) } else { 0.0 };
                (dot * 0.3 + bias).exp()
            };
            let weights: Vec<f64> = seen.iter().map(|&j| score(j)).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let sum: f64 = seen.iter().zip(&weights).map(|(&j, w)| w * at(2, j, h, d)).sum();
                out.push(sum / total);
            }
        }
    }
    out
}

fn run(device: &mut Device, case: &Case, lengths: &[usize], qkv: &[f32], table: &[f32]) -> Vec<f32> {
    let Case { heads, head_dim, window, bias } = *case;
    let packed = packed(device, lengths);
    let (qkv, table) = (buffer(device, qkv), buffer(device, table));
    let bias = bias.then_some(RelativeBias { table: &table, stride: STRIDE, center: CENTER });
    let params = BidirectionalParams { heads, head_dim, scale: 0.3, window, bias };
    let len = lengths.iter().sum::<usize>() * heads * head_dim;
    let mut out = device.buffer(len).unwrap();
    device.attend(&mut out, &qkv, &packed, &params).unwrap();
    values(device, &out, len)
}

#[test]
fn attention_over_packed_sequences() {
    for (heads, head_dim, window, bias) in [
        (2, 32, None, false),
        (3, 7, None, true),
        (1, 48, Some(0), false),
        (2, 17, Some(5), true),
        (1, 16, Some(64), false),
        (2, 1, Some(20), false),
        (1, 100, Some(33), true),
    ] {
        let case = Case { heads, head_dim, window, bias };
        let mut rng = Rng::new(head_dim as u64);
        let width = 3 * heads * head_dim;
        let qkv: Vec<Vec<f32>> = LENGTHS.iter().map(|len| rng.values(len * width)).collect();
        let table = rng.values(heads * STRIDE);
        let want: Vec<f64> = qkv.iter().flat_map(|qkv| attention(&case, qkv, &table)).collect();
        for mut device in devices(3) {
            let together = run(&mut device, &case, &LENGTHS, &qkv.concat(), &table);
            assert_close(&together, &want, 5e-6, "attend");
            let alone: Vec<f32> = LENGTHS
                .iter()
                .zip(&qkv)
                .rev()
                .map(|(len, qkv)| run(&mut device, &case, &[*len], qkv, &table))
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .flatten()
                .collect();
            assert_eq!(bits(&alone), bits(&together), "the same bits, whatever else is in the step");
        }
    }
}

#[test]
fn rotation_of_queries_and_keys() {
    let (heads, head_dim, half) = (2, 10, 3);
    let mut rng = Rng::new(9);
    let tokens = 5;
    let width = 3 * heads * head_dim;
    let (x, cos, sin) = (rng.values(tokens * width), rng.values(tokens * half), rng.values(tokens * half));
    let want: Vec<f64> = (0..tokens * width)
        .map(|i| {
            let (token, part, dim) = (i / width, i % width / head_dim, i % head_dim);
            let value = |dim: usize| f64::from(x[i - i % head_dim + dim]);
            if part >= 2 * heads || dim >= 2 * half {
                return value(dim);
            }
            let angle = token * half + dim % half;
            let (c, s) = (f64::from(cos[angle]), f64::from(sin[angle]));
            if dim < half {
                value(dim) * c - value(dim + half) * s
            } else {
                value(dim) * c + value(dim - half) * s
            }
        })
        .collect();
    for mut device in devices(2) {
        let zeros = [0; 5];
        let mut packed = device.packed(LIMITS).unwrap();
        let rope = [(cos.as_slice(), sin.as_slice())];
        let inputs =
            PackedInputs { ids: &zeros, positions: &zeros, types: &zeros, cu: &[0, 2, 5], rope: &rope };
        device.pack(&mut packed, &inputs).unwrap();
        let mut qkv = buffer(&device, &x);
        device.rotate(&mut qkv, &packed, heads, head_dim, 0).unwrap();
        assert_close(&values(&device, &qkv, tokens * width), &want, 1e-6, "rotate");
        assert!(device.rotate(&mut qkv, &packed, heads, 5, 0).is_err(), "heads narrower than the rotation");
        assert!(device.rotate(&mut qkv, &packed, heads, head_dim, 1).is_err(), "no such table");
    }
}

#[test]
fn pooling() {
    let cols = 19;
    let mut rng = Rng::new(3);
    let x: Vec<Vec<f32>> = LENGTHS.iter().map(|len| rng.values(len * cols)).collect();
    for kind in [PoolingKind::Mean, PoolingKind::First, PoolingKind::Last, PoolingKind::Max] {
        let pooled = |x: &Vec<f32>| -> Vec<f64> {
            let column = |col: usize| x.iter().skip(col).step_by(cols).map(|v| f64::from(*v));
            (0..cols)
                .map(|col| match kind {
                    PoolingKind::Mean => column(col).sum::<f64>() / (x.len() / cols) as f64,
                    PoolingKind::First => column(col).next().unwrap(),
                    PoolingKind::Last => column(col).next_back().unwrap(),
                    PoolingKind::Max => column(col).fold(f64::MIN, f64::max),
                })
                .collect()
        };
        let want: Vec<f64> = x.iter().flat_map(pooled).collect();
        for mut device in devices(2) {
            let packed = packed(&mut device, &LENGTHS);
            let x = buffer(&device, &x.concat());
            let mut out = device.buffer(LENGTHS.len() * cols).unwrap();
            device.pool(&mut out, &x, &packed, kind, cols).unwrap();
            assert_close(&values(&device, &out, LENGTHS.len() * cols), &want, 1e-6, "pool");
        }
    }
}

#[test]
fn steps_that_break_the_contract_are_refused() {
    let mut device = devices(1).next().unwrap();
    let mut packed = device.packed(LIMITS).unwrap();
    let zeros = vec![0; 400];
    let mut pack = |tokens: usize, cu: &[u32]| {
        let zeros = &zeros[..tokens];
        let inputs = PackedInputs { ids: zeros, positions: zeros, types: zeros, cu, rope: &[] };
        device.pack(&mut packed, &inputs).map_err(|error| error.to_string())
    };
    assert!(pack(4, &[0, 1, 4]).is_ok());
    for (tokens, cu, what) in [
        (301, vec![0, 100, 200, 301], "tokens"),
        (141, vec![0, 141], "a sequence"),
        (4, vec![0, 5], "last of cu"),
        (4, vec![1, 4], "first of cu"),
        (4, vec![0, 2, 2, 4], "next of cu"),
        (4, vec![], "cu"),
        (9, (0..10).collect(), "sequences"),
    ] {
        let error = pack(tokens, &cu).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
    let inputs = PackedInputs { ids: &[5], positions: &[0], types: &[0], cu: &[0, 1], rope: &[] };
    device.pack(&mut packed, &inputs).unwrap();
    let (words, weight) = (buffer(&device, &[0.0; 20]), buffer(&device, &[1.0; 4]));
    let tables = EmbeddingTables { words: &words, positions: None, types: None };
    let norm = LayerNorm { weight: &weight, bias: None, eps: 1e-5 };
    let mut out = device.buffer(4).unwrap();
    let error = device.embed_packed(&mut out, &tables, &norm, &packed).unwrap_err().to_string();
    assert!(error.contains("token id"), "{error}");
}
