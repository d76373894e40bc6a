//! Work that must not take the processors from the engines: loads, conversions, transfers.

use std::io;

use tokio::sync::oneshot;

/// Linux's measure: a twentieth of what a thread of priority 0 gets beside it. With more, streams beside a load would have
/// to wait for it too often; with less, a load beside busy engines would take for ever.
pub(crate) const NICE: i32 = 13;

/// Does `work` in a thread of low priority, which those that it starts share. Nothing comes where it panics.
///
/// # Errors
/// When the system cannot start a thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (tell, done) = oneshot::channel();
    let run = move || {
        weirgate_engine::lower_priority(NICE);
        // Whoever asked may have gone.
        let _ = tell.send(work());
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[tokio::test]
    async fn the_work_and_what_it_starts_are_of_low_priority_and_nobody_else_is() {
        let before = priority();
        let own_and_childs = || (priority(), std::thread::spawn(priority).join().unwrap());
        assert_eq!(spawn("test", own_and_childs).unwrap().await.unwrap(), (NICE, NICE));
        assert_eq!(priority(), before);
        assert!(spawn("test", || panic!("on purpose")).unwrap().await.is_err());
    }
}
