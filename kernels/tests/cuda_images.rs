//! The CUDA kernels as compiled for real chips: what the assembler says of them, without any GPU.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use weirgate_kernels::cuda::Kernel;
use weirgate_kernels::cuda::driver::{self, CompileSettings, Compiled, Version};

/// What `build/nvcc.rs` compiles for.
const TARGETS: [&str; 4] = ["sm_80", "sm_89", "sm_90a", "sm_100a"];

/// What a file of images has: code for these chips, and PTX for what is newer.
const IMAGES: [(Kind, u32); 6] = [
    (Kind::Code, 80),
    (Kind::Ptx, 80),
    (Kind::Code, 89),
    (Kind::Ptx, 89),
    (Kind::Code, 90),
    (Kind::Code, 100),
];
/// Compressed PTX without a kernel takes 64 bytes, one kernel at least 500.
const EMPTY: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Ptx,
    Code,
}

/// An image as its header in the file describes it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Image {
    kind: Kind,
    capability: u32,
    bytes: u64,
}

/// The images of a fatbin: a header of 16 bytes (magic, its length, that of all images), then each image behind a header of
/// its own (kind, its length, the image's, capability).
fn images(fatbin: &[u8]) -> Vec<Image> {
    let number = |at: usize, len: usize| {
        fatbin[at..at + len].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    };
    assert_eq!(number(0, 4), 0xba55_ed50, "no fatbin");
    let mut at = number(6, 2) as usize;
    assert_eq!(fatbin.len() as u64, at as u64 + number(8, 8));
    let mut images = Vec::new();
    while at < fatbin.len() {
        let kind = match number(at, 2) {
            1 => Kind::Ptx,
            2 => Kind::Code,
            kind => panic!("an image of kind {kind}"),
        };
        let bytes = number(at + 8, 8);
        images.push(Image { kind, capability: number(at + 28, 4) as u32, bytes });
        at += (number(at + 4, 4) + bytes) as usize;
    }
    images
}

/// One kernel's needs on one chip, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Needs {
    stack: u64,
    spills: u64,
}

/// Parses `ptxas -v`: `(kernel, target)` → needs, and lines that report slow code.
fn report(text: &str) -> (BTreeMap<(String, String), Needs>, Vec<String>) {
    let mut kernels = BTreeMap::new();
    let mut slow = Vec::new();
    let mut current = None;
    for line in text.lines() {
        let quoted: Vec<&str> = line.split('\'').skip(1).step_by(2).collect();
        if let (true, [kernel, target]) = (line.contains("Compiling entry function"), quoted.as_slice()) {
            current = Some(((*kernel).to_owned(), (*target).to_owned()));
        } else if line.contains("bytes stack frame") {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let [stack, stores, loads] = numbers.as_slice() else { panic!("unexpected: {line}") };
            if let Some(key) = current.take() {
                kernels.insert(key, Needs { stack: *stack, spills: stores + loads });
            }
        } else if line.contains("Performance Loss") || line.contains("setmaxnreg ignored") {
            slow.push(line.to_owned());
        }
    }
    (kernels, slow)
}

/// `(kernel, target or *)` → what is allowed.
fn allowed(text: &str) -> BTreeMap<(String, String), Needs> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let lines =
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|words| !words.is_empty());
    lines
        .map(|words| {
            let [kernel, target, stack, spills] = words.as_slice() else {
                panic!("resources.allow: {words:?}")
            };
            let needs = Needs { stack: stack.parse().unwrap(), spills: spills.parse().unwrap() };
            (((*kernel).to_owned(), (*target).to_owned()), needs)
        })
        .collect()
}

/// Without nvcc there is nothing to look at; CI always has it.
fn no_nvcc() -> bool {
    let absent = driver::embedded_toolkit().is_none();
    assert!(!absent || env::var_os("CI").is_none(), "no nvcc was found: run `make cuda-toolchain`");
    absent
}

/// What the build made with this extension, of each `.cu` file one.
fn built(extension: &str) -> Vec<PathBuf> {
    let files = |folder: &Path, extension: &str| -> Vec<PathBuf> {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
    };
    let found = files(&Path::new(env!("OUT_DIR")).join("cuda"), extension);
    let sources = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("csrc"), "cu");
    assert_eq!(found.len(), sources.len(), "{found:?}");
    found
}

/// Chips newer than all code take the PTX, without which they would have no kernel.
#[test]
fn every_file_has_code_for_every_chip_and_ptx_for_newer_ones() {
    if no_nvcc() {
        return;
    }
    for path in built("fatbin") {
        let found = images(&fs::read(&path).unwrap());
        let kinds: Vec<_> = found.iter().map(|image| (image.kind, image.capability)).collect();
        assert_eq!(kinds, IMAGES, "{}", path.display());
        // The kernels for 9.0 alone are nobody else's.
        let hopper = path.file_name().unwrap().to_str().unwrap().starts_with("hopper_");
        for image in found.iter().filter(|image| image.kind == Kind::Ptx) {
            assert_eq!(image.bytes < EMPTY, hopper, "{}: {image:?}", path.display());
        }
    }
}

#[test]
fn no_kernel_spills_or_has_a_stack_frame_that_is_not_allowed() {
    if no_nvcc() {
        return;
    }
    let mut kernels = BTreeMap::new();
    for path in built("ptxas") {
        let (found, slow) = report(&fs::read_to_string(&path).unwrap());
        assert!(slow.is_empty(), "{}: {slow:#?}", path.display());
        kernels.extend(found);
    }
    for kernel in Kernel::ALL {
        for target in TARGETS {
            let key = (kernel.name().to_owned(), target.to_owned());
            let wanted = target == "sm_90a" || !kernel.name().starts_with("hopper_");
            assert_eq!(kernels.contains_key(&key), wanted, "{key:?}");
        }
    }
    let allow =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("csrc/resources.allow")).unwrap();
    let allow = allowed(&allow);
    for ((kernel, target), needs) in &kernels {
        let any = allow.get(&(kernel.clone(), "*".to_owned()));
        let limit = allow.get(&(kernel.clone(), target.clone())).or(any).copied().unwrap_or_default();
        assert!(
            needs.stack <= limit.stack && needs.spills <= limit.spills,
            "{kernel} on {target} has {needs:?}, allowed (csrc/resources.allow) are {limit:?}"
        );
    }
}

#[test]
fn every_file_compiles_at_run_time_too() {
    if no_nvcc() {
        return;
    }
    // The toolkit's, and the least of drivers that are older than the toolkit.
    for (version, folder) in [(Version::new(13, 0), "lib"), (Version::new(12, 4), "nvrtc-12/lib")] {
        let cache = tempfile::tempdir().unwrap();
        let settings = CompileSettings {
            libraries: vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cuda").join(folder)],
            cache: Some(cache.path().to_owned()),
            own_gemm: true,
        };
        // One chip's code differs from the others' by its instructions, which nvcc has compiled for all; this one has most.
        let compile = || driver::compile_kernels(version, "sm_90a", &settings).unwrap();
        let first = compile();
        assert!(!first.is_empty() && first.iter().all(|file| file.bytes > 0 && !file.cached), "{first:?}");
        let again: Vec<_> = first.into_iter().map(|file| Compiled { cached: true, ..file }).collect();
        assert_eq!(compile(), again);
    }
}

#[test]
fn the_report_is_read_as_the_assembler_writes_it() {
    let (kernels, slow) = report(
        "ptxas info    : Compiling entry function 'add' for 'sm_90a'\n\
         ptxas info    : Function properties for add\n    \
             16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
         ptxas info    : Used 8 registers, used 0 barriers\n\
         ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized",
    );
    let key = ("add".to_owned(), "sm_90a".to_owned());
    assert_eq!(kernels.get(&key), Some(&Needs { stack: 16, spills: 20 }));
    assert_eq!(slow.len(), 1);
    let allow = allowed("# none\nadd * 16 20 # because\n");
    assert_eq!(allow[&("add".to_owned(), "*".to_owned())], Needs { stack: 16, spills: 20 });
}
