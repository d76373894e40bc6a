//! Python's `datetime.now().strftime(format)`.

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, TimeZone};

/// `None` for a format that is not valid.
pub(super) fn strftime<Z: TimeZone>(time: &DateTime<Z>, format: &str) -> Option<String>
where
    Z::Offset: std::fmt::Display,
{
    // Python's microseconds; and its `now()` has no time zone, so both of its names are empty.
    let format = replace_directives(format, |directive| match directive {
        'f' => Some("%6f"),
        'z' | 'Z' => Some(""),
        _ => None,
    });
    let items: Vec<Item> = StrftimeItems::new(&format).collect();
    (!items.contains(&Item::Error)).then(|| time.format_with_items(items.into_iter()).to_string())
}

fn replace_directives(format: &str, replace: impl Fn(char) -> Option<&'static str>) -> String {
    let mut out = String::with_capacity(format.len());
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some(directive) => match replace(directive) {
                Some(text) => out.push_str(text),
                None => out.extend(['%', directive]),
            },
            None => out.push('%'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use chrono::{FixedOffset, NaiveDate};

    use super::*;

    /// Expected: Python 3.11, `datetime(2026, 7, 4, 5, 6, 7, 89).strftime(...)`.
    #[test]
    fn formats_are_pythons() {
        let naive = NaiveDate::from_ymd_opt(2026, 7, 4).unwrap().and_hms_micro_opt(5, 6, 7, 89).unwrap();
        let time = FixedOffset::east_opt(3600).unwrap().from_local_datetime(&naive).unwrap();
        for (format, expected) in [
            ("%d %b %Y", "04 Jul 2026"),
            ("%-d %B %y, %A %a", "4 July 26, Saturday Sat"),
            ("%H:%M:%S.%f", "05:06:07.000089"),
            ("%I %p %j %%z[%z%Z]", "05 AM 185 %z[]"),
            ("%Y-%m-%d %%", "2026-07-04 %"),
            ("%c|%x|%X", "Sat Jul  4 05:06:07 2026|07/04/26|05:06:07"),
            ("", ""),
        ] {
            assert_eq!(strftime(&time, format).as_deref(), Some(expected), "{format}");
        }
        assert_eq!(strftime(&time, "%Q"), None);
        assert_eq!(strftime(&time, "%"), None);
    }
}
