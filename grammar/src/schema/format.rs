//! What `format` asks of a string.

pub(super) enum Format {
    /// The library has it by this name.
    Library(&'static str),
    Pattern(String),
    /// Defined by a draft, but not by a regular expression.
    Unsupported,
    /// No draft defines it: every validator takes it for a remark.
    Unknown,
}

const DATE: &str = "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|\
                    02-(?:0[1-9]|1[0-9]|2[0-8]))|[0-9]{2}(?:[2468][048]|[13579][26]|0[48])-02-29|\
                    (?:[02468][048]|[13579][26])00-02-29";
// A leap second is at 23:59 UTC only, which depends on the offset; none are written.
const TIME: &str =
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
const URI_PART: &str = "(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*";

pub(super) fn format(name: &str) -> Format {
    match name {
        "date" => whole(DATE),
        "time" => whole(TIME),
        "date-time" => whole(&format!("(?:{DATE})[tT]{TIME}")),
        "uuid" => whole("[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"),
        "ipv4" | "ip-address" => {
            let byte = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
            whole(&format!("(?:{byte}\\.){{3}}{byte}"))
        }
        // What is internationalized is written in its plain form.
        "email" | "idn-email" => Format::Library("email"),
        "hostname" | "idn-hostname" | "host-name" => Format::Library("hostname"),
        "ipv6" => Format::Library("ipv6"),
        "uri" | "iri" => Format::Library("uri"),
        "duration" => Format::Library("duration"),
        "uri-reference" | "iri-reference" => {
            // A scheme, or a first segment without a colon.
            let relative = "(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})*";
            whole(&format!(
                "(?:[A-Za-z][A-Za-z0-9+.-]*:{URI_PART}|{relative}(?:[/?]{URI_PART})?)(?:#{URI_PART})?"
            ))
        }
        "json-pointer" => whole("(?:/(?:[^/~]|~[01])*)*"),
        "relative-json-pointer" => whole("(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^/~]|~[01])*)*)"),
        "regex" | "uri-template" => Format::Unsupported,
        _ => Format::Unknown,
    }
}

fn whole(pattern: &str) -> Format {
    Format::Pattern(format!("^(?:{pattern})$"))
}
