//! What a client is owed and has not taken yet.
//!
//! While anything is in here its server is not read: a slow reader holds one buffer and nobody else.

use std::io;
use std::task::{Context, Poll, ready};

use crate::net::buffer::{Growing, Lent};
use crate::net::stream::Stream;

/// Bytes for a client.
#[derive(Debug, Default)]
pub enum Outbox {
    /// Nothing.
    #[default]
    Empty,
    /// A part of a buffer as it was read from the server.
    Read {
        /// The buffer.
        buffer: Lent,
        /// Where the rest begins.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// Something that was put together.
    Made {
        /// The bytes.
        buffer: Growing,
        /// How many have been taken.
        sent: usize,
    },
}

impl Outbox {
    /// Whether everything has been taken.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// How far its memory is filled, and how much of that has been taken.
    #[must_use]
    pub fn level(&self) -> (usize, usize) {
        match self {
            Self::Empty => (0, 0),
            Self::Read { start, end, .. } => (*end, *start),
            Self::Made { buffer, sent } => (buffer.len(), *sent),
        }
    }

    /// Appends what `write` writes.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        match self {
            Self::Made { buffer, .. } => write(buffer),
            Self::Empty => {
                let mut buffer = crate::net::buffer::lend_growing();
                write(&mut buffer);
                *self = Self::Made { buffer, sent: 0 };
            }
            Self::Read { buffer, start, end } => {
                let mut made = crate::net::buffer::lend_growing();
                made.extend_from_slice(buffer.get(*start..*end).unwrap_or_default());
                write(&mut made);
                *self = Self::Made { buffer: made, sent: 0 };
            }
        }
    }

    /// Sends until it is empty or the client takes no more; adds to `count` how much it took.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_send(&mut self, stream: &mut Stream, cx: &mut Context<'_>, count: &mut u64) -> Poll<io::Result<()>> {
        loop {
            let (rest, taken) = match self {
                Self::Empty => return Poll::Ready(Ok(())),
                Self::Read { buffer, start, end } => (buffer.get(*start..*end).unwrap_or_default(), start),
                Self::Made { buffer, sent } => (buffer.get(*sent..).unwrap_or_default(), sent),
            };
            if rest.is_empty() {
                ready!(stream.poll_flush(cx))?;
                *self = Self::Empty;
                return Poll::Ready(Ok(()));
            }
            match ready!(stream.poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    *taken += written;
                    *count += written as u64;
                }
            }
        }
    }
}
