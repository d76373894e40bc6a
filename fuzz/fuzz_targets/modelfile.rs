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
    let written = modelfile.to_string();
    let read = Modelfile::parse(&written).unwrap_or_else(|error| panic!("{error}: {written:?}"));
    // Values with a line that ends in three quotes have no exact form; once written, they keep the one they got.
    assert_eq!(Modelfile::parse(&read.to_string()).ok(), Some(read));
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
