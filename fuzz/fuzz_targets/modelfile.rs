//! Modelfiles from anywhere: reading ends in commands or in an error, and what is written is read back as it was.
//!
//!     cargo +nightly fuzz run modelfile fuzz/corpus/modelfile -- -max_len=4096
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_store::{Base, Command, CreateRequest, Modelfile, read_parameters};

fuzz_target!(|data: &[u8]| {
    let Ok(modelfile) = Modelfile::from_bytes(data) else {
        return;
    };
    // A value that has no exact form is an error; what is written is read back as it was.
    if let Ok(written) = modelfile.write() {
        assert_eq!(Modelfile::parse(&written).as_ref(), Ok(&modelfile), "{written:?}");
    }
    let parameters = modelfile.commands.iter().filter_map(|command| match command {
        Command::Parameter(name, value) => Some((name.as_str(), value.as_str())),
        _ => None,
    });
    let _ = read_parameters(parameters);
    let name = "fuzz".parse().expect("a name");
    if let Ok(request) = CreateRequest::from_modelfile(name, &modelfile, None) {
        assert!(!matches!(request.base, Base::Path(_)), "a file of the server: {:?}", request.base);
    }
});
