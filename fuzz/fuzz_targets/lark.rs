//! Lark grammars from anywhere: compiling ends in a grammar or a refusal, and what was compiled takes tokens until it
//! faults or ends.
//!
//!     cargo +nightly fuzz run lark fuzz/corpus/lark -- -max_len=2048 -timeout=20 -rss_limit_mb=2048
#![no_main]

mod grammar;

use libfuzzer_sys::fuzz_target;
use weirgate_grammar::GrammarSpec;

fuzz_target!(|data: &[u8]| {
    let spec = GrammarSpec::Lark(String::from_utf8_lossy(data).into_owned());
    grammar::walk(&grammar::compilers()[0], &spec, data);
});
