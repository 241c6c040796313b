//! What a client has sent and nobody has taken yet.
//!
//! The bytes lie in the thread's buffer while they are worked on. A rest that has to wait is parked in memory of its
//! own size, so that a client that sends half a message costs half a message.

use std::io;
use std::task::{Context, Poll, ready};

use crate::net::buffer::{self, Lent};
use crate::net::stream::Stream;

/// The largest request that is held back until it is whole. What is larger streams.
pub const HOLD_MAX: usize = buffer::SIZE;

/// Parked memory a client may keep while it is empty.
const KEPT_MAX: usize = 1024;

/// Bytes from a client, oldest first.
#[derive(Debug, Default)]
pub struct Inbox {
    lent: Option<Lent>,
    /// Of `lent`, or of `parked`.
    start: usize,
    /// Of `lent`.
    end: usize,
    parked: Vec<u8>,
}

impl Inbox {
    /// An inbox that has these bytes already.
    #[must_use]
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self { parked: bytes, ..Self::default() }
    }

    /// What is here.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.lent {
            Some(lent) => lent.get(self.start..self.end),
            None => self.parked.get(self.start..),
        }
        .unwrap_or_default()
    }

    /// How far its memory is filled, and how much of that has been taken.
    #[must_use]
    pub const fn level(&self) -> (usize, usize) {
        match &self.lent {
            Some(_) => (self.end, self.start),
            None => (self.parked.len(), self.start),
        }
    }

    /// Whether nothing is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Whether no more fits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes().len() >= HOLD_MAX
    }

    /// The first `taken` bytes have been taken.
    pub fn consume(&mut self, taken: usize) {
        self.start += taken;
        if self.is_empty() {
            self.start = 0;
            self.lent = None;
            self.parked.clear();
            self.parked.shrink_to(KEPT_MAX);
        }
    }

    /// Gives the thread's buffer back; what is left waits in memory of its own.
    pub fn park(&mut self) {
        if let Some(lent) = self.lent.take() {
            self.parked.clear();
            self.parked.extend_from_slice(lent.get(self.start..self.end).unwrap_or_default());
            self.start = 0;
        }
    }

    /// Reads what the client has sent; 0 is the end. To be called only while there is room.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_fill(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(lent) = &mut self.lent {
            if self.end == lent.len() {
                lent.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            let read = ready!(stream.poll_read(cx, lent.get_mut(self.end..).unwrap_or_default()))?;
            self.end += read;
            return Poll::Ready(Ok(read));
        }
        if self.parked.is_empty() {
            let mut lent = buffer::lend();
            let read = ready!(stream.poll_read(cx, &mut lent))?;
            (self.lent, self.start, self.end) = (Some(lent), 0, read);
            return Poll::Ready(Ok(read));
        }
        let held = self.bytes().len();
        let mut lent = buffer::lend();
        let room = lent.get_mut(..HOLD_MAX.saturating_sub(held).max(1)).unwrap_or_default();
        let read = ready!(stream.poll_read(cx, room))?;
        self.parked.drain(..std::mem::take(&mut self.start));
        self.parked.extend_from_slice(lent.get(..read).unwrap_or_default());
        Poll::Ready(Ok(read))
    }
}
