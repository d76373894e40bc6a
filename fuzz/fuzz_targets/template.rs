//! Chat templates and conversations from anywhere: rendering ends in a text or in an error, and whatever the template
//! takes, it takes from a process of its own. The input is a template, a zero byte, and a conversation's JSON.
//!
//!     cargo +nightly fuzz run template fuzz/corpus/template text/tests/chat-templates -- -max_len=16384 -timeout=60
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_router::{ChatTemplate, Conversation, TEMPLATE_COMMAND, TemplateError, run_templates};

const DEFAULT: &str = r#"{"messages": [{"role": "user", "content": "Hi"}]}"#;

fuzz_target!(
    init: {
        // The fuzzer's program is the template process, too.
        if std::env::args().nth(1).is_some_and(|command| command == TEMPLATE_COMMAND) {
            run_templates();
            std::process::exit(0);
        }
    },
    |data: &[u8]| {
        let text = String::from_utf8_lossy(data);
        let (template, conversation) = text.split_once('\0').unwrap_or((&*text, DEFAULT));
        let conversation = serde_json::from_str(conversation)
            .or_else(|_| serde_json::from_str::<Conversation>(DEFAULT))
            .expect("a conversation");
        let template = ChatTemplate::new(vec![("default".into(), template.into())], Vec::new());
        let rendered = template.render(&conversation);
        assert!(!matches!(rendered, Err(TemplateError::Process(_) | TemplateError::Missing)), "{rendered:?}");
    }
);
