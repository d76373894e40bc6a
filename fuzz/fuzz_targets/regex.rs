//! Regular expressions from anywhere, by both backends: compiling ends in a grammar or a refusal, and what was compiled
//! takes tokens until it faults or ends.
//!
//!     cargo +nightly fuzz run regex fuzz/corpus/regex -- -max_len=1024 -timeout=20 -rss_limit_mb=2048
#![no_main]

mod grammar;

use libfuzzer_sys::fuzz_target;
use weirgate_grammar::GrammarSpec;

fuzz_target!(|data: &[u8]| {
    let spec = GrammarSpec::Regex(String::from_utf8_lossy(data).into_owned());
    grammar::compilers().iter().for_each(|compiler| grammar::walk(compiler, &spec, data));
});
