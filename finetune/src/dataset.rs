//! The dataset: a conversation a line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use weirgate_text::{MAX_ERRORS, MAX_LINE, Record};

use crate::FinetuneError;

/// Reads a file of conversations, see [`Record`]. Empty lines do not count.
///
/// # Errors
/// A file that cannot be read, or the first lines that are no conversation with a reply.
pub fn read_dataset(path: &Path) -> Result<Vec<Record>, FinetuneError> {
    let mut file = BufReader::new(File::open(path).map_err(|error| FinetuneError::file(path, error))?);
    let (mut records, mut errors, mut more) = (Vec::new(), Vec::new(), 0);
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        // One byte more than a line has, and its end.
        let read = file.by_ref().take(MAX_LINE as u64 + 2).read_until(b'\n', &mut text);
        if read.map_err(|error| FinetuneError::file(path, error))? == 0 {
            break;
        }
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        match Record::read(number, line) {
            Ok(record) => records.extend(record),
            Err(error) if errors.len() < MAX_ERRORS => errors.push(error),
            Err(_) => more += 1,
        }
        if line.len() > MAX_LINE {
            break;
        }
    }
    if !errors.is_empty() {
        return Err(FinetuneError::Dataset { file: path.display().to_string(), errors, more });
    }
    match records.is_empty() {
        true => Err(FinetuneError::file(path, "has no conversations")),
        false => Ok(records),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"messages":[{"role":"user","content":"q"},{"role":"bot","content":"a"}]}"#;

    fn read(text: &str) -> Result<Vec<Record>, FinetuneError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_dataset(file.path())
    }

    #[test]
    fn lines_are_counted_and_empty_ones_left_out() {
        let records = read(&format!("{GOOD}\r\n\n{GOOD}\n \n{GOOD}")).unwrap();
        assert_eq!(records.iter().map(|record| record.line).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(records[1].messages, records[0].messages);
        assert!(read("\n\n").unwrap_err().to_string().contains("has no conversations"));
    }

    #[test]
    fn the_first_twenty_errors_are_told() {
        let error = read(&"nonsense\n".repeat(50)).unwrap_err().to_string();
        assert!(error.contains("line 20: ") && !error.contains("line 21: "), "{error}");
        assert!(error.ends_with("and 30 more"), "{error}");
    }

    #[test]
    fn a_line_may_be_as_long_as_at_its_upload() {
        let line = |bytes: usize| GOOD.replacen('q', &"q".repeat(bytes - GOOD.len() + 1), 1);
        assert_eq!(line(100).len(), 100);
        assert_eq!(read(&format!("{}\n{GOOD}", line(MAX_LINE))).unwrap().len(), 2);
        let error = read(&format!("{GOOD}\n{}\n", line(MAX_LINE + 1))).unwrap_err().to_string();
        assert!(error.contains("line 2: is longer than 16777216 bytes"), "{error}");
    }
}
