//! The first packet of a stranger: whatever it is, it is understood or refused, and costs no more than it weighs.

#![no_main]

use howdah::protocol::startup::{self, BODY_BYTES_MAX, NEWEST_MINOR, Startup};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    // as the handshake does: the length word first, then exactly so many bytes
    if let Some((word, rest)) = packet.split_first_chunk::<4>()
        && let Ok(length) = startup::scan_length(word)
    {
        assert!((4..=BODY_BYTES_MAX).contains(&length));
        if let Some(body) = rest.get(..length) {
            read(body);
        }
    }
    read(packet);
    if let Ok(options) = startup::parse_options(packet) {
        assert!(options.iter().all(|(name, _)| !name.is_empty()));
    }
});

fn read(body: &[u8]) {
    match startup::parse(body) {
        Ok(Startup::Session(message)) => {
            assert!(!message.user.is_empty() && !message.database.is_empty());
            assert!(message.spoken_minor() <= NEWEST_MINOR);
            let named = message.params.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            assert!(named <= body.len());
            assert!(message.params.iter().all(|(name, _)| message.param(name).is_some()));
            if let Some(options) = message.param(b"options") {
                let _ = startup::parse_options(options);
            }
            if let Some(negotiation) = message.negotiation() {
                assert!(negotiation.len() <= body.len() + 16);
            }
        }
        Ok(Startup::Cancel { secret, .. }) => assert!(secret.len() < body.len()),
        Ok(Startup::Ssl | Startup::Gss) => assert_eq!(body.len(), 4),
        Err(error) => {
            let _ = (error.to_string(), error.sqlstate());
        }
    }
}
