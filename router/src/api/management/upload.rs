//! A file that comes as a form, handed on piece by piece.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Multipart;
use axum::extract::multipart::Field;
use tokio::sync::mpsc;
use weirgate_jobs::{DatasetError, DatasetRow};

use super::errors::Refusal;
use crate::background;
use crate::management::{Management, ManagementError};

/// Pieces that may wait to be written.
const BACKLOG: usize = 8;
/// A form of which nothing has come for so long will not come.
const PATIENCE: Duration = Duration::from_secs(60);
const FIELD: &str = "file";
const MAX_NAME: usize = 255;

/// What is said of a form that is none.
pub(super) fn refused(reason: String) -> Refusal {
    Refusal::Field { place: "body", field: FIELD, reason }
}

/// Takes in the file of a form.
///
/// # Errors
/// A form without a file, and what is wrong with the file.
pub(super) async fn take(
    management: Arc<Management>,
    mut form: Multipart,
    description: Option<String>,
) -> Result<DatasetRow, Refusal> {
    let field = loop {
        let next = tokio::time::timeout(PATIENCE, form.next_field()).await;
        let next = next.map_err(|_| refused("the form took too long to come".to_owned()))?;
        let field = next.map_err(|error| refused(error.body_text()))?;
        let field = field.ok_or_else(|| Refusal::missing("body", FIELD))?;
        if field.name() == Some(FIELD) {
            break field;
        }
    };
    let name = file_name(field.file_name().unwrap_or_default());
    let (send, pieces) = mpsc::channel(BACKLOG);
    let limit = management.dataset_limit();
    let work = move || {
        let mut source = Pieces { pieces, piece: Bytes::new(), ended: false };
        let added = management.add_dataset(name, description, &mut source);
        if matches!(&added, Err(error) if !matches!(error, DatasetError::BrokenOff(_))) {
            // Who still sends would otherwise see a broken connection rather than the answer.
            let rest = io::copy(&mut source.by_ref().take(limit), &mut io::sink());
            rest.map(drop).unwrap_or_default();
        }
        added
    };
    let added = background::spawn("data set", work).map_err(|_| Refusal::BrokeOff)?;
    pass_on(field, send).await;
    let added = added.await.map_err(|_| Refusal::BrokeOff)?;
    added.map_err(|error| Refusal::Management(ManagementError::Dataset(error)))
}

/// The last part of a path, as some browsers send one.
fn file_name(given: &str) -> String {
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    if name.is_empty() { "data.jsonl".to_owned() } else { name }
}

/// Hands the field on to a thread that may block, until that wants no more of it. Its end is told: where that is
/// missing, the form broke off.
async fn pass_on(mut field: Field<'_>, send: mpsc::Sender<io::Result<Option<Bytes>>>) {
    loop {
        let piece = match tokio::time::timeout(PATIENCE, field.chunk()).await {
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
            Ok(Err(error)) => Err(io::Error::other(error.body_text())),
            Ok(Ok(piece)) => Ok(piece),
        };
        let last = !matches!(piece, Ok(Some(_)));
        if send.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// The field as a thread reads it.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Option<Bytes>>>,
    piece: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Ok(Some(piece))) => self.piece = piece,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = self.piece.len().min(buffer.len());
        let now = self.piece.split_to(n);
        buffer.get_mut(..n).unwrap_or_default().copy_from_slice(&now);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_is_the_last_part_of_what_was_given() {
        for (given, name) in [
            ("train.jsonl", "train.jsonl"),
            ("/tmp/../train.jsonl", "train.jsonl"),
            (r"C:\data\train.jsonl", "train.jsonl"),
            ("a\r\nb", "ab"),
            ("", "data.jsonl"),
            ("x/", "data.jsonl"),
        ] {
            assert_eq!(file_name(given), name);
        }
        assert_eq!(file_name(&"ы".repeat(999)).chars().count(), MAX_NAME);
    }

    #[test]
    fn a_form_whose_end_is_missing_broke_off() {
        let read = |pieces: Vec<io::Result<Option<Bytes>>>| {
            let (send, receive) = mpsc::channel(8);
            pieces.into_iter().for_each(|piece| send.try_send(piece).unwrap());
            drop(send);
            let mut text = String::new();
            let mut source = Pieces { pieces: receive, piece: Bytes::new(), ended: false };
            source.read_to_string(&mut text).map(|_| text).map_err(|error| error.kind())
        };
        let piece = |text: &'static str| Ok(Some(Bytes::from_static(text.as_bytes())));
        assert_eq!(read(vec![piece("ab"), piece(""), piece("c"), Ok(None)]), Ok("abc".to_owned()));
        assert_eq!(read(vec![piece("ab")]), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(
            read(vec![piece("ab"), Err(io::ErrorKind::TimedOut.into())]),
            Err(io::ErrorKind::TimedOut)
        );
    }
}
