//! Quantized checkpoints: matrices packed here by the formats' descriptions, against what their integers mean.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use half::f16;
use serde_json::{Value, json};
use tempfile::TempDir;
use weirgate_models::{
    DType, ModelFiles, QuantMethod, TensorSource, open_tensors, open_tensors_in_one_thread,
};
use weirgate_testkit::generator::stream;
use weirgate_testkit::packed::{Grid, Tensor, words, write_tensors};

fn folder(quantization: &Value, tensors: &[Tensor]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_tensors(folder.path(), &json!({"quantization_config": quantization}), tensors).unwrap();
    folder
}

fn open(quantization: &Value, tensors: &[Tensor]) -> Result<Box<dyn TensorSource>, String> {
    let folder = folder(quantization, tensors);
    open_tensors(&ModelFiles::open(folder.path()).unwrap()).map_err(|error| error.to_string())
}

/// The matrix `m.weight` must have this type and, to that type's rounding, these values.
fn check(quantization: &Value, tensors: &[Tensor], dtype: DType, (rows, values): (usize, &[f32])) {
    let source = open(quantization, tensors).unwrap();
    let view = source.tensor("m.weight").unwrap();
    let folder = folder(quantization, tensors);
    let alone = open_tensors_in_one_thread(&ModelFiles::open(folder.path()).unwrap()).unwrap();
    assert!(alone.tensor("m.weight").unwrap().bytes == view.bytes, "by however many threads");
    let shape = vec![rows, values.len() / rows];
    assert_eq!((view.dtype, &view.shape), (dtype, &shape), "{quantization}");
    assert_eq!(source.info("m.weight").unwrap(), (dtype, shape), "{quantization}");
    assert_eq!(source.total_bytes(), view.bytes.len() as u64, "{quantization}");
    let round = |value: f32| if dtype == DType::F16 { f16::from_f32(value).to_f32() } else { value };
    for (at, (ours, value)) in view.to_f32().into_iter().zip(values).enumerate() {
        assert_eq!(ours, round(*value), "{quantization}: element {at} of {} a row", values.len() / rows);
    }
}

fn check_grid(quantization: &Value, tensors: &[Tensor], dtype: DType, grid: &Grid) {
    check(quantization, tensors, dtype, (grid.rows, &grid.values()));
}

fn awq() -> Value {
    json!({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true, "version": "GEMM"})
}

fn gptq(bits: usize, format: &str) -> Value {
    json!({"quant_method": "gptq", "bits": bits, "checkpoint_format": format})
}

fn compressed(format: &str) -> Value {
    json!({"quant_method": "compressed-tensors", "format": format})
}

#[test]
fn awq_is_exact() {
    for (rows, cols, group) in [(8, 32, 32), (136, 256, 128), (72, 96, 96)] {
        let grid = Grid::new((rows, cols), 4, group, false);
        check_grid(&awq(), &grid.awq("m"), DType::Q5_0, &grid);
    }
    let symmetric = Grid::new((16, 64), 4, 64, true);
    check_grid(&awq(), &symmetric.awq("m"), DType::Q4_0, &symmetric);
}

#[test]
fn gptq_is_exact() {
    for (format, zeros_less) in [("gptq", 1), ("gptq_v2", 0)] {
        for (bits, symmetric, dtype) in
            [(4, true, DType::Q4_0), (4, false, DType::Q5_0), (8, true, DType::Q8_0), (8, false, DType::F16)]
        {
            for (rows, cols, group) in [(8, 32, 32), (200, 96, 32), (24, 256, 128), (16, 64, 64)] {
                let grid = Grid::new((rows, cols), bits, group, symmetric);
                let mut tensors = grid.gptq("m", zeros_less);
                check_grid(&gptq(bits, format), &tensors, dtype, &grid);
                tensors.push(grid.g_idx("m.g_idx"));
                check_grid(&gptq(bits, format), &tensors, dtype, &grid);
            }
        }
    }
    // Without a word about the format, it is the first one.
    let grid = Grid::new((8, 32), 4, 32, false);
    check_grid(&json!({"quant_method": "gptq", "bits": 4}), &grid.gptq("m", 1), DType::Q5_0, &grid);
}

#[test]
fn gptq_in_another_order_is_put_in_order() {
    for bits in [4, 8] {
        let mut words = stream(5, "order");
        let mut grid = Grid::new((16, 128), bits, 32, false);
        for col in (1..grid.cols).rev() {
            grid.group_of.swap(col, (words.next().unwrap() % (col as u64 + 1)) as usize);
        }
        let mut tensors = grid.gptq("m", 1);
        tensors.push(grid.g_idx("m.g_idx"));
        check_grid(&gptq(bits, "gptq"), &tensors, DType::F16, &grid);
    }
    // Groups of 16 are in order, but two to a block.
    let grid = Grid::new((16, 64), 4, 16, true);
    check_grid(&gptq(4, "gptq"), &grid.gptq("m", 1), DType::F16, &grid);
}

#[test]
fn compressed_integers_are_exact() {
    let packed = compressed("pack-quantized");
    for (bits, symmetric, dtype) in
        [(4, true, DType::Q4_0), (4, false, DType::Q5_0), (8, true, DType::Q8_0), (8, false, DType::F16)]
    {
        for (rows, cols, group) in [(75, 64, 32), (16, 128, 128)] {
            let grid = Grid::new((rows, cols), bits, group, symmetric);
            check_grid(&packed, &grid.packed("m", !symmetric), dtype, &grid);
            check_grid(&packed, &grid.packed("m", true), dtype, &grid);
        }
    }
    // Rows that end within a word, and so are no whole blocks.
    let odd = Grid::new((5, 37), 4, 37, true);
    check_grid(&packed, &odd.packed("m", false), DType::F16, &odd);
    let mut shuffled = Grid::new((8, 64), 4, 32, true);
    shuffled.group_of.swap(3, 40);
    let mut tensors = shuffled.packed("m", false);
    tensors.push(shuffled.g_idx("m.weight_g_idx"));
    check_grid(&packed, &tensors, DType::F16, &shuffled);
    // Minus one for each column says that there is no order.
    let grid = Grid::new((8, 64), 4, 32, true);
    let mut tensors = grid.packed("m", false);
    tensors.push(words("m.weight_g_idx".into(), vec![64], &[u32::MAX; 64]));
    check_grid(&packed, &tensors, DType::Q4_0, &grid);
}

#[test]
fn int8_is_exact() {
    let bytes = |grid: &Grid| grid.codes.iter().map(|code| code ^ 128).collect::<Vec<u8>>();
    let mut grid = Grid::new((75, 96), 8, 96, true);
    // Both ends of the range.
    (grid.codes[0], grid.codes[1]) = (0, 255);
    let weight = ("m.weight".to_owned(), "I8", vec![75, 96], bytes(&grid));
    let tensors = [weight.clone(), grid.scales_by_row("m")];
    check_grid(&compressed("int-quantized"), &tensors, DType::Q8_0, &grid);
    let zeros = ("m.weight_zero_point".to_owned(), "I8", vec![75, 1], vec![0; 75]);
    let tensors = [weight, grid.scales_by_row("m"), zeros];
    check_grid(&compressed("int-quantized"), &tensors, DType::Q8_0, &grid);
    let asymmetric = Grid::new((75, 96), 8, 96, false);
    let zeros = asymmetric.zeros.iter().map(|zero| zero ^ 128).collect();
    let tensors = [
        ("m.weight".to_owned(), "I8", vec![75, 96], bytes(&asymmetric)),
        asymmetric.scales_by_row("m"),
        ("m.weight_zero_point".to_owned(), "I8", vec![75, 1], zeros),
    ];
    check_grid(&compressed("int-quantized"), &tensors, DType::F16, &asymmetric);
    // One scale for all.
    let mut one = Grid::new((8, 32), 8, 32, true);
    one.scales.fill(0.25);
    let scale = ("m.weight_scale".to_owned(), "F32", vec![1], 0.25f32.to_le_bytes().to_vec());
    let tensors = [("m.weight".to_owned(), "I8", vec![8, 32], bytes(&one)), scale];
    check_grid(&compressed("int-quantized"), &tensors, DType::Q8_0, &one);
}

#[test]
fn scales_that_f16_has_not_become_floats() {
    let mut grid = Grid::new((8, 32), 4, 32, true);
    // Small, with more digits than are left there.
    grid.scales[3] = 1.53e-6;
    let scales: Vec<u8> = grid.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let mut tensors = grid.packed("m", false);
    tensors[2] = ("m.weight_scale".to_owned(), "F32", vec![8, 1], scales);
    check_grid(&compressed("pack-quantized"), &tensors, DType::F16, &grid);
    grid.scales[3] = 65536.0;
    let scales: Vec<u8> = grid.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    tensors[2] = ("m.weight_scale".to_owned(), "F32", vec![8, 1], scales);
    check_grid(&compressed("pack-quantized"), &tensors, DType::F32, &grid);
    // In f32 with more digits than f16 has, but of its size: rounded.
    let mut tensors = grid.packed("m", false);
    tensors[2] = ("m.weight_scale".to_owned(), "F32", vec![1], 0.1f32.to_le_bytes().to_vec());
    grid.scales.fill(f16::from_f32(0.1).to_f32());
    check_grid(&compressed("pack-quantized"), &tensors, DType::Q4_0, &grid);
}

/// Values of E4M3 by hand.
const E4M3: [(u8, f32); 8] = [
    (0x00, 0.0),
    (0x38, 1.0),
    (0xb8, -1.0),
    (0x3c, 1.5),
    (0x7e, 448.0),
    (0xfe, -448.0),
    (0x01, 0.001_953_125),
    (0x45, 3.25),
];

/// The codes and scales of `m.weight`, as they are stored; `None`: they do not go by rows.
fn check_scaled_rows(quantization: &Value, tensors: &[Tensor], expected: Option<(&[u8], &[f32])>) {
    let source = open(quantization, tensors).unwrap();
    let found = source.scaled_rows("m.weight").unwrap();
    let shape = found.as_ref().map(|found| (found.rows, found.cols));
    assert_eq!(shape, expected.map(|(codes, scales)| (scales.len(), codes.len() / scales.len())));
    assert_eq!(found.as_ref().map(|found| (&*found.codes, &*found.scales)), expected, "{quantization}");
    assert_eq!(source.scaled_rows("m.weight_scale").unwrap(), None);
}

#[test]
fn eight_bit_floats_are_floats() {
    let (rows, cols) = (67, 40);
    let pick = |at: usize| E4M3[(at * 5 + at / cols) % 8];
    let bytes: Vec<u8> = (0..rows * cols).map(|at| pick(at).0).collect();
    let weight = ("m.weight".to_owned(), "F8_E4M3", vec![rows, cols], bytes);
    let scale = |name: &str, shape: Vec<usize>, scales: &[f32]| -> Tensor {
        (name.to_owned(), "F32", shape, scales.iter().flat_map(|scale| scale.to_le_bytes()).collect())
    };
    let values = |scale: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
        (0..rows * cols).map(|at| pick(at).1 * scale(at / cols, at % cols)).collect()
    };
    let fp8 = json!({"quant_method": "fp8", "activation_scheme": "static"});
    let one =
        [weight.clone(), scale("m.weight_scale", vec![], &[0.013]), scale("m.input_scale", vec![], &[3.0])];
    check(&fp8, &one, DType::F16, (rows, &values(&|_, _| 0.013)));
    check_scaled_rows(&fp8, &one, Some((weight.3.as_slice(), &[0.013; 67][..])));
    let by_row: Vec<f32> = (0..rows).map(|row| 0.001 * (row + 1) as f32).collect();
    for shape in [vec![rows], vec![rows, 1]] {
        let tensors = [weight.clone(), scale("m.weight_scale", shape, &by_row)];
        check(&compressed("float-quantized"), &tensors, DType::F16, (rows, &values(&|row, _| by_row[row])));
        check_scaled_rows(
            &compressed("float-quantized"),
            &tensors,
            Some((weight.3.as_slice(), by_row.as_slice())),
        );
    }
    let in_grid: Vec<f32> = (0..5 * 3).map(|at| 0.01 + 0.003 * at as f32).collect();
    let blocks = json!({"quant_method": "fp8", "weight_block_size": [16, 16]});
    let tensors = [weight.clone(), scale("m.weight_scale_inv", vec![5, 3], &in_grid)];
    let expected = values(&|row, col| in_grid[row / 16 * 3 + col / 16]);
    check(&blocks, &tensors, DType::F16, (rows, &expected));
    check_scaled_rows(&blocks, &tensors, None);
    let wide = json!({"quant_method": "fp8", "weight_block_size": [16, 64]});
    let tensors = [weight.clone(), scale("m.weight_scale_inv", vec![5, 1], &in_grid[..5])];
    let by_band: Vec<f32> = (0..rows).map(|row| in_grid[row / 16]).collect();
    check(&wide, &tensors, DType::F16, (rows, &values(&|row, _| by_band[row])));
    check_scaled_rows(&wide, &tensors, Some((weight.3.as_slice(), by_band.as_slice())));
    let structure =
        json!({"group_0": {"weights": {"type": "float", "num_bits": 8, "block_structure": [16, 16]}}});
    let mut grouped = compressed("float-quantized");
    grouped["config_groups"] = structure;
    let tensors = [weight.clone(), scale("m.weight_scale", vec![5, 3], &in_grid)];
    check(&grouped, &tensors, DType::F16, (rows, &expected));
    // Too large for f16.
    let tensors = [weight, scale("m.weight_scale", vec![1], &[1000.0])];
    check(&fp8, &tensors, DType::F32, (rows, &values(&|_, _| 1000.0)));
}

#[test]
fn other_tensors_are_as_they_are() {
    let grid = Grid::new((8, 32), 4, 32, true);
    let mut tensors = grid.gptq("layer.q_proj", 1);
    tensors.push(("layer.q_proj.bias".to_owned(), "F16", vec![8], vec![7; 16]));
    tensors.push(("norm.weight".to_owned(), "BF16", vec![4], vec![1; 8]));
    let source = open(&gptq(4, "gptq"), &tensors).unwrap();
    assert_eq!(source.tensor("layer.q_proj.weight").unwrap().dtype, DType::Q4_0);
    assert_eq!(source.tensor("layer.q_proj.bias").unwrap().bytes[..], [7; 16]);
    assert_eq!(source.info("norm.weight").unwrap(), (DType::BF16, vec![4]));
    assert!(source.contains("layer.q_proj.weight") && source.contains("norm.weight"));
    assert!(!source.contains("layer.k_proj.weight"));
    assert!(source.file("layer.q_proj.weight").ends_with("model.safetensors"));
    assert_eq!(source.total_bytes(), 8 * 18 + 16 + 8);
    source.release("layer.q_proj.weight");
    assert_eq!(source.tensor("layer.q_proj.weight").unwrap().to_f32(), grid.values());
    let message = source.tensor("layer.k_proj.weight").unwrap_err().to_string();
    assert!(message.contains("'layer.k_proj.weight': is missing"), "{message}");
}

#[test]
fn older_checkpoints_have_a_file_of_their_own() {
    for (file, config, less) in [
        ("quantize_config.json", json!({"bits": 4, "group_size": 32, "desc_act": false, "sym": false}), 1),
        (
            "quant_config.json",
            json!({"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}),
            0,
        ),
    ] {
        let grid = Grid::new((8, 32), 4, 32, false);
        let tensors = if less == 1 { grid.gptq("m", 1) } else { grid.awq("m") };
        let folder = folder(&Value::Null, &tensors);
        fs::write(folder.path().join(file), config.to_string()).unwrap();
        let files = ModelFiles::open(folder.path()).unwrap();
        let method = if less == 1 { QuantMethod::Gptq } else { QuantMethod::Awq };
        assert_eq!(QuantMethod::of(&files).unwrap(), Some(method));
        let source = open_tensors(&files).unwrap();
        assert_eq!(source.tensor("m.weight").unwrap().to_f32(), grid.values(), "{file}");
    }
}

/// What is not read is refused, by the key's name and with its value.
#[test]
fn kinds_that_are_not_read_are_refused_by_name() {
    for (quantization, names) in [
        (json!({}), ["quant_method", "''"]),
        (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), ["quant_method", "'bitsandbytes'"]),
        (json!({"quant_method": "exl2"}), ["quant_method", "q4_k_m"]),
        (json!({"quant_method": "awq", "bits": 3}), ["quantization_config.bits", "is 3"]),
        (json!({"quant_method": "awq", "bits": 4, "version": "GEMV_FAST"}), ["version", "'gemv_fast'"]),
        (json!({"quant_method": "awq", "zero_point": false}), ["zero_point", "is false"]),
        (json!({"quant_method": "gptq", "bits": 2}), ["bits", "is 2"]),
        (
            json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}),
            ["checkpoint_format", "'marlin'"],
        ),
        (
            json!({"quant_method": "gptq", "bits": 4, "is_marlin_format": true}),
            ["is_marlin_format", "is true"],
        ),
        (json!({"quant_method": "gptq", "bits": "4"}), ["bits", "expected an integer"]),
        (json!({"quant_method": "fp8", "weight_block_size": [128]}), ["weight_block_size", "2 numbers"]),
        (json!({"quant_method": "fp8", "weight_block_size": [0.5, 128]}), ["weight_block_size", "0.5"]),
        (compressed("marlin-24"), ["format", "'marlin-24'"]),
        (compressed("nvfp4-pack-quantized"), ["format", "'nvfp4-pack-quantized'"]),
        (
            json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}),
            ["sparsity_config.format", "'sparse-24-bitmask'"],
        ),
        (
            json!({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"u": {}}}}),
            ["transform_config.config_groups", "rotations"],
        ),
        (
            json!({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"type": "float", "num_bits": 4}}}}),
            ["config_groups.g.weights.num_bits", "is 4"],
        ),
    ] {
        let message = open(&quantization, &[]).err().unwrap();
        assert!(names.iter().all(|name| message.contains(name)), "{quantization}: {message}");
        assert!(message.contains("config.json"), "{message}");
    }
}

/// Parts that do not fit together are errors that name the part; nothing is made of them.
#[test]
fn parts_that_do_not_fit_are_errors() {
    let grid = Grid::new((16, 64), 4, 32, false);
    let mut gptq_parts = grid.gptq("m", 1);
    gptq_parts.push(grid.g_idx("m.g_idx"));
    let (awq_parts, packed_parts) = (grid.awq("m"), grid.packed("m", true));
    let cases =
        [(gptq(4, "gptq"), gptq_parts), (awq(), awq_parts), (compressed("pack-quantized"), packed_parts)];
    for (quantization, parts) in cases {
        open(&quantization, &parts).unwrap();
        for (index, (name, ..)) in parts.iter().enumerate() {
            let change = |change: &dyn Fn(&mut Tensor)| {
                let mut parts = parts.clone();
                change(&mut parts[index]);
                parts
            };
            let optional = ["m.g_idx", "m.weight_zero_point"].contains(&name.as_str());
            let main = ["m.qweight", "m.weight_packed"].contains(&name.as_str());
            let mut broken = vec![
                change(&|part| part.1 = if part.1 == "I32" { "F32" } else { "U8" }),
                change(&|part| part.2.insert(0, 1)),
                change(&|part| {
                    part.2[0] *= 2;
                    part.3 = part.3.repeat(2);
                }),
                change(&|part| {
                    part.2[0] = 0;
                    part.3.clear();
                }),
            ];
            if !optional && !main {
                broken.push([&parts[..index], &parts[index + 1..]].concat());
            }
            for (case, parts) in broken.iter().enumerate() {
                // Lists may be of any rank, and one without groups says nothing.
                let list = ["m.g_idx", "m.weight_shape"].contains(&name.as_str());
                let message = match open(&quantization, parts) {
                    Err(message) => message,
                    Ok(_) if list && case == 1 || name == "m.g_idx" && case == 3 => continue,
                    Ok(source) => {
                        // Another shape than the parts before; the architecture's check says so.
                        assert_ne!(source.info("m.weight").unwrap().1, [16, 64], "{name} {case}");
                        continue;
                    }
                };
                assert!(message.contains("model.safetensors"), "{name} {case}: {message}");
            }
        }
    }
    let far = words("m.g_idx".into(), vec![64], &[2; 64]);
    let message = open(&gptq(4, "gptq"), &[grid.gptq("m", 1), vec![far]].concat()).err().unwrap();
    assert!(message.contains("'m.g_idx'") && message.contains("not one of 2"), "{message}");
    let zeros = ("m.weight_zero_point".to_owned(), "I8", vec![16, 2], vec![100; 32]);
    let tensors = [grid.packed("m", false), vec![zeros]].concat();
    let message = open(&compressed("pack-quantized"), &tensors).err().unwrap();
    assert!(message.contains("'m.weight_zero_point'") && message.contains("4 bits"), "{message}");
}
