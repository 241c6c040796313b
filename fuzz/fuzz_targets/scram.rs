//! SCRAM as strangers speak it: clients before they have proved anything, servers, and verifiers from a catalogue.

#![no_main]

use arbitrary::Arbitrary;
use howdah::protocol::scram::{Binding, ClientExchange, ServerExchange, Verifier};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Said {
    first: Vec<u8>,
    last: Vec<u8>,
    verifier: String,
    bound: u8,
}

fuzz_target!(|said: Said| {
    let binding = || match said.bound % 3 {
        0 => Binding::EndPoint(b"0123456789abcdef0123456789abcdef".to_vec()),
        1 => Binding::Unavailable,
        _ => Binding::Unused,
    };
    let parsed = said.verifier.parse::<Verifier>();
    if let Ok(verifier) = &parsed {
        assert!(verifier.iterations > 0 && !verifier.salt.is_empty());
    }
    let verifier = parsed.unwrap_or_else(|_| Verifier::mock(b"user", b"secret"));
    if let Ok((exchange, answer)) = ServerExchange::start(&said.first, verifier, "server", binding()) {
        assert!(answer.starts_with(b"r="));
        assert!(exchange.finish(&said.last).is_err(), "a proof was guessed");
    }
    let Ok((exchange, _)) = ClientExchange::start("client", binding()) else { panic!("the nonce is good") };
    let first = exchange.read_server_first(&said.first);
    if let Ok(first) = first {
        assert!(first.iterations > 0 && !first.salt.is_empty());
    }
});
