//! Messages between the server and a template process: four bytes of length (little-endian), then JSON.

use std::io::{self, ErrorKind, Read};

use serde::Serialize;

const HEADER: usize = 4;

/// One message as it is written.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - HEADER).map_err(|_| too_long())?;
    frame.splice(..HEADER, length.to_le_bytes());
    Ok(frame)
}

/// The next message's JSON; `None` when the other side has closed. One of more than `limit` bytes is an error.
pub(super) fn receive(from: &mut impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER];
    match from.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(header) as usize;
    if length > limit {
        return Err(too_long());
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok(Some(payload))
}

fn too_long() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the message is too long")
}
