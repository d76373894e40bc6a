//! What constrains a sequence's tokens, as the engine sees it. The engine knows no text: whoever submits a request brings
//! a compiled grammar along.

use std::fmt::Debug;

use weirgate_types::TokenId;

/// A compiled grammar: the start of one [`Grammar`] per sequence. Compilation is over when a request is submitted.
pub trait GrammarSource: Debug + Send + Sync {
    /// The state before the first token. Runs on a worker thread.
    fn start(&self) -> Box<dyn Grammar>;
}

/// The state of a grammar after some tokens. Belongs to one sequence and outlives its preemptions.
///
/// Stop tokens are the engine's: it never hands one to [`advance`](Self::advance), and it decides by
/// [`is_final`](Self::is_final) whether one can be drawn. After an error every later call fails too. All calls run on
/// worker threads, one at a time per state; a panic counts as a fault.
pub trait Grammar: Debug + Send {
    /// Sets bit `i % 32` of word `i / 32` for every token `i` that can come next, and no other.
    /// `mask` is `[ceil(vocab / 32)]` of the model's vocabulary, all zero.
    ///
    /// # Errors
    /// When the grammar's limits are exceeded or its implementation fails.
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarFault>;

    /// Takes a token.
    ///
    /// # Errors
    /// [`GrammarFault::Refused`] when it cannot come next; else as for [`fill_mask`](Self::fill_mask).
    fn advance(&mut self, token: TokenId) -> Result<(), GrammarFault>;

    /// Whether the text may end here.
    ///
    /// # Errors
    /// As for [`fill_mask`](Self::fill_mask).
    fn is_final(&mut self) -> Result<bool, GrammarFault>;

    /// The tokens of the text that must come next, as the tokenizer would write it, to the last token that what follows
    /// cannot change; none where the text may end. Does not take them.
    ///
    /// # Errors
    /// As for [`fill_mask`](Self::fill_mask).
    fn forced(&mut self) -> Result<Vec<TokenId>, GrammarFault>;

    /// Undoes the last `tokens` calls of [`advance`](Self::advance), for drafted tokens that the model rejects.
    ///
    /// # Errors
    /// When fewer were taken; else as for [`fill_mask`](Self::fill_mask).
    fn rollback(&mut self, tokens: usize) -> Result<(), GrammarFault>;
}

/// Why a grammar cannot go on; ends its sequence with [`weirgate_types::Finish::GrammarFailed`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarFault {
    #[error("no token can follow, and the text is not complete")]
    DeadEnd,
    #[error("token {0} cannot come next")]
    Refused(TokenId),
    #[error("{0}")]
    Failed(String),
    #[error("the grammar panicked")]
    Panicked,
}
