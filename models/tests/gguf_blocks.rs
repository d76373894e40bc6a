//! Every block type against the values that the independent `gguf` package computes (`tools/parity/gguf_blocks.py`),
//! bit for bit.
#![allow(clippy::unwrap_used)]

use weirgate_models::{DType, dequantize};

/// The next `count` bytes.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (head, tail) = bytes.split_at(count);
    *bytes = tail;
    head
}

fn number(bytes: &mut &[u8]) -> usize {
    u32::from_le_bytes(take(bytes, 4).try_into().unwrap()) as usize
}

#[test]
fn blocks_decode_to_the_same_bits() {
    let mut file: &[u8] = include_bytes!("goldens/gguf_blocks.bin");
    let mut seen = Vec::new();
    while !file.is_empty() {
        let name = String::from_utf8(take(&mut file, 16).to_vec()).unwrap();
        let name = name.trim_end_matches('\0');
        let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == name).unwrap();
        let (blocks, values) = (number(&mut file), number(&mut file));
        let blocks = take(&mut file, blocks);
        assert_eq!(blocks.len(), dtype.bytes_of(values).unwrap(), "{name}");
        let expected: Vec<u32> = take(&mut file, 4 * values)
            .chunks(4)
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let ours: Vec<u32> = dequantize(dtype, blocks).iter().map(|value| value.to_bits()).collect();
        assert_eq!(ours.len(), expected.len(), "{name}");
        let differs = (0..values).find(|&i| ours[i] != expected[i]);
        assert_eq!(
            differs.map(|i| (i, f32::from_bits(ours[i]), f32::from_bits(expected[i]))),
            None,
            "{name}"
        );
        seen.push(dtype);
    }
    let floats = [DType::F32, DType::F16, DType::BF16];
    let quantized: Vec<DType> = DType::ALL.into_iter().filter(|dtype| !floats.contains(dtype)).collect();
    assert_eq!(seen.len(), quantized.len());
    assert!(quantized.iter().all(|dtype| seen.contains(dtype)));
}

#[test]
fn floats_widen_exactly() {
    assert_eq!(dequantize(DType::F32, &1.1f32.to_le_bytes()), [1.1]);
    assert_eq!(
        dequantize(DType::F16, &[0x00, 0x3C, 0x01, 0x00, 0x00, 0xFC]),
        [1.0, 5.960_464_5e-8, f32::NEG_INFINITY]
    );
    assert_eq!(dequantize(DType::BF16, &[0x80, 0x3F, 0x01, 0x00]), [1.0, f32::from_bits(0x1_0000)]);
}

#[test]
fn whole_blocks_only() {
    assert_eq!(DType::Q4_0.bytes_of(64), Some(36));
    assert_eq!(DType::Q4_0.bytes_of(40), None);
    assert_eq!(DType::Q6K.bytes_of(usize::MAX - 255), (usize::MAX / 256).checked_mul(210));
    assert_eq!(DType::F32.bytes_of(usize::MAX), None);
}
