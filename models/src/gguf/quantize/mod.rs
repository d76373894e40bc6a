//! Floats into the stored blocks. The types of 32 elements are ggml's arithmetic, so the results are the same bytes; the
//! K types search for the scales with the least squared error, as ggml does, each in its own way.

mod k_quants;
mod search;
mod simple;

use std::num::NonZero;
use std::thread;

use crate::DType;

/// Elements that a thread takes at a time, whole blocks of every type.
const PIECE: usize = 1 << 16;

/// `values`, whole blocks, as blocks of `dtype`, in at most `threads` threads: of one, the caller's. `None` for a type
/// that only is read.
pub(crate) fn quantize(dtype: DType, values: &[f32], threads: NonZero<usize>) -> Option<Vec<u8>> {
    let encode: fn(&[f32], &mut [u8]) = match dtype {
        DType::F32 => |v, out| each(v, out, |v: &[f32; 1], out| *out = v[0].to_le_bytes()),
        DType::F16 => {
            |v, out| each(v, out, |v: &[f32; 1], out| *out = half::f16::from_f32(v[0]).to_le_bytes())
        }
        DType::BF16 => {
            |v, out| each(v, out, |v: &[f32; 1], out| *out = half::bf16::from_f32(v[0]).to_le_bytes())
        }
        DType::Q8_0 => |v, out| each(v, out, simple::q8_0),
        DType::Q4_0 => |v, out| each(v, out, simple::q4_0),
        DType::Q4_1 => |v, out| each(v, out, simple::q4_1),
        DType::Q5_0 => |v, out| each(v, out, simple::q5_0),
        DType::Q5_1 => |v, out| each(v, out, simple::q5_1),
        DType::Q4K => |v, out| each(v, out, k_quants::q4_k),
        DType::Q5K => |v, out| each(v, out, k_quants::q5_k),
        DType::Q6K => |v, out| each(v, out, k_quants::q6_k),
        DType::Q2K | DType::Q3K | DType::Iq4Nl | DType::Iq4Xs | DType::Mxfp4 => return None,
    };
    let mut bytes = vec![0; dtype.bytes_of(values.len())?];
    let piece = dtype.bytes_of(PIECE)?;
    let mut pieces: Vec<_> = values.chunks(PIECE).zip(bytes.chunks_mut(piece)).collect();
    share(&mut pieces, threads, |(values, out)| encode(values, out));
    Some(bytes)
}

/// Does `work` on every item: the calling thread its share, others theirs.
pub(crate) fn share<T: Send>(items: &mut [T], threads: NonZero<usize>, work: impl Fn(&mut T) + Sync) {
    let share = items.len().div_ceil(threads.get()).max(1);
    let work = &work;
    thread::scope(|scope| {
        let mut shares = items.chunks_mut(share);
        let own = shares.next();
        for share in shares {
            scope.spawn(move || share.iter_mut().for_each(work));
        }
        own.into_iter().flatten().for_each(work);
    });
}

/// Encodes block by block.
fn each<const ELEMENTS: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; ELEMENTS], &mut [u8; BYTES]),
) {
    let blocks = values.as_chunks().0.iter().zip(out.as_chunks_mut().0);
    blocks.for_each(|(values, out)| encode(values, out));
}

/// Writes `value` as f16 at byte `at` and returns it.
fn put_half<const BYTES: usize>(out: &mut [u8; BYTES], at: usize, value: f32) -> f32 {
    let half = half::f16::from_f32(value);
    out[at..at + 2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

/// `1 / value`, 0 for 0.
fn inverse(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { 1.0 / value }
}

/// Codes in pairs: the first half of them in the low nibbles, the second in the high ones.
pub(crate) fn put_nibbles(out: &mut [u8], codes: &[u8]) {
    let (low, high) = codes.split_at(codes.len() / 2);
    for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
        *out = low & 15 | high << 4;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn one_thread_is_the_callers_and_no_more_than_asked_for_are_started() {
        for threads in [1, 2, 3, 8] {
            let seen = Mutex::new(HashSet::new());
            let mut items = [0; 7];
            share(&mut items, NonZero::new(threads).unwrap(), |item| {
                *item += 1;
                seen.lock().unwrap().insert(thread::current().id());
            });
            assert_eq!(items, [1; 7]);
            let seen = seen.into_inner().unwrap();
            assert!(seen.contains(&thread::current().id()) && seen.len() <= threads, "{threads}");
        }
    }
}
