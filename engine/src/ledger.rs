//! Who is owed an answer. Every sequence has an [`Account`] from submission on; closing it is the only way to report
//! an end and consumes it, so no sequence ends twice, and the count of open accounts shows one that never ended.

use weirgate_types::{Finish, RejectReason, RequestId, SeqOutput, SeqUpdate, TokenOut, Usage};

/// The right to report about one sequence. Made by [`Ledger::open`], ended by [`Ledger::close`].
#[derive(Debug)]
#[must_use = "an account must be closed"]
pub struct Account {
    request: RequestId,
    index: u32,
}

/// The open accounts and what was reported since the last [`Ledger::take`].
#[derive(Debug, Default)]
pub struct Ledger {
    open: usize,
    outputs: Vec<SeqOutput>,
}

impl Ledger {
    /// Opens the account of sequence `index` of a request.
    pub fn open(&mut self, request: RequestId, index: u32) -> Account {
        self.open += 1;
        Account { request, index }
    }

    /// The sequence left the queue.
    pub fn scheduled(&mut self, account: &Account, cached_tokens: u32) {
        self.report(account, SeqUpdate::Scheduled { cached_tokens });
    }

    /// The prompt's log-probabilities are complete.
    pub fn prompt(&mut self, account: &Account, logprobs: Vec<Option<f32>>) {
        self.report(account, SeqUpdate::Prompt { logprobs });
    }

    /// A token was generated.
    pub fn token(&mut self, account: &Account, token: TokenOut) {
        self.report(account, SeqUpdate::Token(token));
    }

    /// The sequence's one terminal.
    pub fn close(&mut self, account: Account, reason: Finish, usage: Usage) {
        self.report(&account, SeqUpdate::Finished { reason, usage });
        self.open -= 1;
    }

    /// A request that never had an account.
    pub fn reject(&mut self, request: RequestId, reason: RejectReason) {
        self.outputs.push(SeqOutput { request, index: 0, update: SeqUpdate::Rejected(reason) });
    }

    /// Accounts not closed yet.
    pub fn open_accounts(&self) -> usize {
        self.open
    }

    /// What was reported since the last call, in order.
    pub fn take(&mut self) -> Vec<SeqOutput> {
        // The next step has about as much to report.
        let room = Vec::with_capacity(self.outputs.len());
        std::mem::replace(&mut self.outputs, room)
    }

    fn report(&mut self, account: &Account, update: SeqUpdate) {
        self.outputs.push(SeqOutput { request: account.request, index: account.index, update });
    }
}
