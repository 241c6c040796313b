//! What a stranger has sent, in as few reads as it came.
//!
//! A login is a handful of small messages, and each read of one is a system call: what is there is taken at once, and
//! what comes behind the last message of the login is the session's.

use std::io;

use crate::net::stream::Stream;

/// The most that is taken from a stranger at once, in bytes.
const READ_MAX: usize = 1_024;

/// Bytes that have come and not been taken.
#[derive(Debug, Default)]
pub struct Intake {
    bytes: Vec<u8>,
}

impl Intake {
    /// Whether nothing is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next byte, which stays.
    ///
    /// # Errors
    /// The socket's, and `UnexpectedEof`.
    pub async fn look(&mut self, stream: &mut Stream) -> io::Result<u8> {
        self.fill(stream, 1).await?;
        self.bytes.first().copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The next `length` bytes, which the caller has checked to be a reasonable number.
    ///
    /// # Errors
    /// The socket's, and `UnexpectedEof`.
    pub async fn take(&mut self, stream: &mut Stream, length: usize) -> io::Result<Vec<u8>> {
        self.fill(stream, length).await?;
        let rest = self.bytes.split_off(length);
        Ok(std::mem::replace(&mut self.bytes, rest))
    }

    /// All that is here, for somebody who reads on by himself.
    pub fn take_all(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    async fn fill(&mut self, stream: &mut Stream, length: usize) -> io::Result<()> {
        let mut chunk = [0; READ_MAX];
        while self.bytes.len() < length {
            match stream.read(&mut chunk).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.bytes.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            }
        }
        Ok(())
    }

    /// What nobody has taken.
    #[must_use]
    pub fn into_rest(self) -> Vec<u8> {
        self.bytes
    }
}
