//! SCRAM as strangers speak it: clients before they have proved anything, servers, and verifiers from a catalogue. Half of
//! what is said is well-formed up to the part that matters, or a fuzzer would never get past the nonce.

#![no_main]

use arbitrary::Arbitrary;
use howdah::protocol::scram::{Binding, ClientExchange, Credential, Keys, ServerExchange, Verifier};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Said {
    first: Vec<u8>,
    last: Vec<u8>,
    verifier: String,
    bound: u8,
    /// Of a message that is right in form: what stands in its attributes.
    attributes: [String; 4],
    well_formed: bool,
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
        assert!(verifier.to_string().parse().as_ref() == Ok(verifier), "a verifier is written as it is read");
        assert!(!format!("{verifier:?}").contains('='), "a verifier shows its keys");
    }
    let verifier = parsed.unwrap_or_else(|_| Verifier::mock(b"user", b"secret", 4096));
    let [echo, nonce, more, proof] = &said.attributes;
    let first = match (said.well_formed, said.bound % 3) {
        (false, _) => said.first.clone(),
        (true, 0) => format!("p=tls-server-end-point,,n=,r={nonce}").into_bytes(),
        (true, _) => format!("n,,n=,r={nonce}").into_bytes(),
    };
    if let Ok((exchange, answer)) = ServerExchange::start(&first, verifier, "server", binding()) {
        assert!(answer.starts_with(b"r="));
        let agreed = String::from_utf8_lossy(&answer).split(',').next().unwrap_or_default().to_owned();
        let last = match said.well_formed {
            true => format!("c={echo},{agreed}{more},p={proof}").into_bytes(),
            false => said.last.clone(),
        };
        assert!(exchange.finish(&last).is_err(), "a proof was guessed");
    }
    let Ok((exchange, _)) = ClientExchange::start("client", binding()) else { panic!("the nonce is good") };
    let first = match said.well_formed {
        true => format!("r=client{nonce},s=c2FsdA==,i=1{more}").into_bytes(),
        false => said.first,
    };
    let Ok(asked) = exchange.read_server_first(&first) else { return };
    assert!(asked.iterations > 0 && !asked.salt.is_empty());
    let keys = Keys::derive(b"password", b"salt", 1);
    if let Ok((answer, expected)) = exchange.respond(&first, &Credential::Keys(&keys)) {
        assert!(answer.starts_with(b"c="));
        let last = if said.well_formed { format!("v={proof}").into_bytes() } else { said.last };
        assert!(expected.verify(&last).is_err(), "a signature was guessed");
    }
});
