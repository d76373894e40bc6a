//! Server-sent events out of bytes that arrive in any portions.

/// The longest event that is read; a server that sends more without an end is at fault.
const MAX_EVENT: usize = 4 << 20;

#[derive(Debug, Default)]
pub struct EventReader {
    buffer: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct EventTooLong;

impl EventReader {
    /// Takes the next portion; gives the `data` of every event that is complete with it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, EventTooLong> {
        self.buffer.extend(bytes.iter().filter(|byte| **byte != b'\r'));
        let mut events = Vec::new();
        while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let lines = event.split(|byte| *byte == b'\n');
            let data: Vec<&[u8]> = lines.filter_map(|line| line.strip_prefix(b"data:")).collect();
            if !data.is_empty() {
                let trimmed = data.iter().map(|line| line.strip_prefix(b" ").unwrap_or(line));
                events.push(trimmed.collect::<Vec<_>>().join(&b'\n'));
            }
        }
        if self.buffer.len() > MAX_EVENT { Err(EventTooLong) } else { Ok(events) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_do_not_matter() {
        let stream = b"data: {\"a\":1}\n\n:\n\ndata:b\r\n\r\nevent: x\ndata: c\ndata: d\n\ndata: [DONE]\n\n";
        let expected: Vec<Vec<u8>> = [&b"{\"a\":1}"[..], b"b", b"c\nd", b"[DONE]"].map(<[u8]>::to_vec).into();
        for size in 1..stream.len() {
            let mut reader = EventReader::default();
            let events: Vec<Vec<u8>> =
                stream.chunks(size).flat_map(|portion| reader.push(portion).unwrap()).collect();
            assert_eq!(events, expected, "portions of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut reader = EventReader::default();
        let portion = vec![b'x'; MAX_EVENT / 2];
        assert_eq!(reader.push(&portion), Ok(Vec::new()));
        assert_eq!(reader.push(&portion), Ok(Vec::new()));
        assert_eq!(reader.push(b"x"), Err(EventTooLong));
    }
}
