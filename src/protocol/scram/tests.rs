//! RFC 7677's vector, both sides against each other, and whatever a peer may do wrong.

use postgres_protocol::authentication::sasl;
use proptest::prelude::*;

use super::*;

const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn rfc_verifier() -> Verifier {
    Verifier::from_password(b"pencil", &STANDARD.decode(SALT).unwrap(), 4096)
}

/// Cheap to derive, so that properties may do it often.
fn cheap(password: &[u8]) -> Verifier {
    Verifier::from_password(password, b"0123456789abcdef", 2)
}

/// A whole login; what the server side found, after the client side agreed.
fn login(verifier: &Verifier, credential: &Credential<'_>, both: &Binding) -> Result<ClientKey, ScramError> {
    let (client, first) = ClientExchange::start("clientnonce", both.clone())?;
    let (server, challenge) = ServerExchange::start(&first, verifier.clone(), "servernonce", both.clone())?;
    let (answer, expected) = client.respond(&challenge, credential)?;
    let (outcome, key) = server.finish(&answer)?;
    expected.verify(&outcome).map(|()| key)
}

#[test]
fn the_server_side_speaks_rfc_7677() {
    let (server, challenge) =
        ServerExchange::start(CLIENT_FIRST, rfc_verifier(), SERVER_NONCE, Binding::Unavailable).unwrap();
    assert_eq!(challenge, SERVER_FIRST);
    let (outcome, key) = server.finish(CLIENT_FINAL).unwrap();
    assert_eq!(outcome, SERVER_FINAL);
    assert_eq!(key.stored_key(), rfc_verifier().stored_key);
}

#[test]
fn the_client_side_speaks_rfc_7677() {
    let (client, first) = ClientExchange::start_as("user", CLIENT_NONCE, Binding::Unavailable).unwrap();
    assert_eq!(first, CLIENT_FIRST);
    let (answer, expected) = client.respond(SERVER_FIRST, &Credential::Password(b"pencil")).unwrap();
    assert_eq!(answer, CLIENT_FINAL);
    expected.verify(SERVER_FINAL).unwrap();
}

#[test]
fn a_client_of_another_hand_logs_in() {
    for password in ["pencil", "p\u{e4}\u{aa}ss\u{ad}wort", "\u{7}bell", ""] {
        let mut client = sasl::ScramSha256::new(password.as_bytes(), sasl::ChannelBinding::unrequested());
        let verifier = cheap(password.as_bytes());
        let (server, challenge) =
            ServerExchange::start(client.message(), verifier, "servernonce", Binding::Unavailable).unwrap();
        client.update(&challenge).unwrap();
        let (outcome, _) = server.finish(client.message()).unwrap();
        client.finish(&outcome).unwrap();
    }
}

#[test]
fn a_client_of_another_hand_binds_the_channel() {
    let hash = vec![7; 32];
    let mut client = sasl::ScramSha256::new(b"x", sasl::ChannelBinding::tls_server_end_point(hash.clone()));
    let (server, challenge) =
        ServerExchange::start(client.message(), cheap(b"x"), "servernonce", Binding::EndPoint(hash)).unwrap();
    client.update(&challenge).unwrap();
    client.finish(&server.finish(client.message()).unwrap().0).unwrap();
}

#[test]
fn both_sides_agree_with_and_without_channel_binding() {
    for both in [Binding::Unavailable, Binding::EndPoint(vec![1; 48])] {
        login(&cheap(b"secret"), &Credential::Password(b"secret"), &both).unwrap();
        assert_eq!(login(&cheap(b"secret"), &Credential::Password(b"Secret"), &both), Err(ScramError::WrongPassword));
    }
}

#[test]
fn the_recovered_key_logs_in_without_a_password() {
    let verifier = cheap(b"secret");
    let key = login(&verifier, &Credential::Password(b"secret"), &Binding::Unavailable).unwrap();
    let keys = verifier.keys(key);
    assert_eq!(keys, Keys::derive(b"secret", &verifier.salt, verifier.iterations));
    login(&verifier, &Credential::Keys(&keys), &Binding::EndPoint(vec![1; 32])).unwrap();
}

#[test]
fn keys_for_another_salt_or_count_are_refused_by_name() {
    let verifier = cheap(b"secret");
    let keys = Keys::derive(b"secret", &verifier.salt, verifier.iterations);
    let salted = Verifier::from_password(b"secret", b"another salt", 2);
    let counted = Verifier::from_password(b"secret", b"0123456789abcdef", 3);
    for other in [salted, counted] {
        let error = login(&other, &Credential::Keys(&keys), &Binding::Unavailable).unwrap_err();
        assert!(matches!(error, ScramError::KeysDoNotFit { ours_iterations: 2, .. }), "{error}");
    }
}

#[test]
fn a_verifier_reads_what_it_prints() {
    let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    assert_eq!(rfc_verifier().to_string(), text);
    assert_eq!(text.parse(), Ok(rfc_verifier()));
    for (from, to) in [
        ("SCRAM-SHA-256$", "SCRAM-SHA-1$"),
        ("4096", "0"),
        ("4096", "+4096"),
        ("4096", "99999999999"),
        (":W22ZaJ0SNY7soEsUEjb6gQ==$", ":$"),
        ("gQ==", "gQ"),
        ("qY=", "qZ="),
        ("2dU=", "2dU=:"),
        ("$WG5d", "$"),
    ] {
        assert_eq!(text.replace(from, to).parse::<Verifier>(), Err(ParseVerifierError), "{from} -> {to}");
    }
    assert_eq!("md562af4dd09bbb41884907a838a3233294".parse::<Verifier>(), Err(ParseVerifierError));
}

#[test]
fn an_unknown_user_looks_like_any_other_and_never_gets_in() {
    let mock = Verifier::mock(b"nobody", b"process secret", 8192);
    assert_eq!(mock, Verifier::mock(b"nobody", b"process secret", 8192));
    assert_ne!(mock.salt, Verifier::mock(b"somebody", b"process secret", 8192).salt);
    assert_ne!(mock.salt, Verifier::mock(b"nobody", b"another secret", 8192).salt);
    assert_eq!((mock.salt.len(), mock.iterations), (16, 8192));
    let error = login(&mock, &Credential::Password(b"guess"), &Binding::Unavailable).unwrap_err();
    assert_eq!(error, ScramError::WrongPassword);
}

#[test]
fn secrets_are_not_printed() {
    let keys = Keys::derive(b"secret", b"salt", 1);
    assert_eq!(format!("{:?}", keys.client_key), "ClientKey(…)");
    assert_eq!(format!("{:?}", Credential::Password(b"secret")), "Password(…)");
    assert!(!format!("{:?} {keys:?}", cheap(b"secret")).contains("key: ["));
}

#[test]
fn the_binding_flag_must_fit_what_was_offered_and_chosen() {
    let start = |first: &[u8], binding: Binding| ServerExchange::start(first, cheap(b"x"), "s", binding).map(|_| ());
    let bound = || Binding::EndPoint(vec![1; 32]);
    let (n, y, p) = (b"n,,n=,r=c", b"y,,n=,r=c", b"p=tls-server-end-point,,n=,r=c");
    assert_eq!(start(n, Binding::Unavailable), Ok(()));
    assert_eq!(start(y, Binding::Unavailable), Ok(()));
    assert_eq!(start(p, Binding::Unavailable), Err(ScramError::BindingFlag));
    assert_eq!(start(n, Binding::Unused), Ok(()));
    assert_eq!(start(y, Binding::Unused), Err(ScramError::BindingDowngrade));
    assert_eq!(start(p, Binding::Unused), Err(ScramError::BindingFlag));
    assert_eq!(start(n, bound()), Err(ScramError::BindingFlag));
    assert_eq!(start(y, bound()), Err(ScramError::BindingFlag));
    assert_eq!(start(p, bound()), Ok(()));
    assert_eq!(start(b"p=tls-unique,,n=,r=c", bound()), Err(ScramError::UnsupportedBindingType));
}

#[test]
fn a_man_in_the_middle_with_another_certificate_is_noticed() {
    let (client, first) = ClientExchange::start("c", Binding::EndPoint(vec![1; 32])).unwrap();
    let (server, challenge) = ServerExchange::start(&first, cheap(b"x"), "s", Binding::EndPoint(vec![2; 32])).unwrap();
    let (answer, _) = client.respond(&challenge, &Credential::Password(b"x")).unwrap();
    assert_eq!(server.finish(&answer), Err(ScramError::BindingMismatch));
}

#[test]
fn client_first_is_read_strictly() {
    let start = |first: &[u8]| ServerExchange::start(first, cheap(b"x"), "s", Binding::Unavailable).map(|_| ());
    assert_eq!(start(b"n,,n=,r=c,x=an extension nobody must know"), Ok(()));
    assert_eq!(start(b"n,a=admin,n=,r=c"), Err(ScramError::AuthorizationIdentity));
    assert_eq!(start(b"n,,m=x,n=,r=c"), Err(ScramError::UnsupportedExtension));
    assert_eq!(start(b"n,,n=,r=c,m=x"), Err(ScramError::UnsupportedExtension));
    assert_eq!(start(b"n,,n=,r="), Err(ScramError::NonceCharacters));
    assert_eq!(start(b"n,,n=,r=a b"), Err(ScramError::NonceCharacters));
    assert_eq!(start(&[b"n,,n=,r=", &[b'c'; 2000][..]].concat()), Err(ScramError::TooLong));
    for bad in [
        &b""[..],
        b"n",
        b"n,",
        b"n,,",
        b"n,x,n=,r=c",
        b"z,,n=,r=c",
        b"n,,r=c,n=",
        b"n,,r=c",
        b"n,,n=",
        b"n,,n=,r=c,",
        b"n,,n,r=c",
        b"n,,n=,,r=c",
        b"n,,n=,r=c\0",
        b"n,,n=\xff,r=c",
    ] {
        let error = start(bad).unwrap_err();
        assert!(matches!(error, ScramError::Malformed(_)), "{}: {error}", bad.escape_ascii());
        assert_eq!(error.sqlstate(), SqlState::PROTOCOL_VIOLATION);
    }
}

#[test]
fn client_final_is_read_strictly() {
    let finish = |last: &str| {
        let (server, _) =
            ServerExchange::start(CLIENT_FIRST, rfc_verifier(), SERVER_NONCE, Binding::Unavailable).unwrap();
        server.finish(last.as_bytes()).map(|_| ())
    };
    let good = std::str::from_utf8(CLIENT_FINAL).unwrap();
    assert_eq!(finish(good), Ok(()));
    assert_eq!(finish(&good.replace("biws", "eSws")), Err(ScramError::UnexpectedBinding));
    assert_eq!(finish(&good.replace("r=rO", "r=xO")), Err(ScramError::Nonce));
    assert_eq!(finish(&good.replace("k0,", "k,")), Err(ScramError::Nonce));
    assert_eq!(finish(&good.replace(",p=", ",m=x,p=")), Err(ScramError::UnsupportedExtension));
    // an extension is part of what is proved
    assert_eq!(finish(&good.replace(",p=", ",x=y,p=")), Err(ScramError::WrongPassword));
    for (from, to) in [
        (",p=d", ",p="),
        ("VQ=", "VR="),
        ("VQ=", "VQ"),
        ("VQ=", "VQ=,x=y"),
        ("VQ=", "VQ= "),
        (",p=", ","),
        ("c=biws,", ""),
        (",r=", ",q="),
    ] {
        let error = finish(&good.replace(from, to)).unwrap_err();
        assert!(matches!(error, ScramError::Malformed(_)), "{from} -> {to}: {error}");
    }
    assert_eq!(finish(&"x".repeat(1 << 20)), Err(ScramError::TooLong));
}

#[test]
fn a_server_cannot_make_us_hash_for_ever_nor_choose_our_nonce() {
    let respond = |first: &str| {
        let (client, _) = ClientExchange::start("mine", Binding::Unavailable).unwrap();
        client.respond(first.as_bytes(), &Credential::Password(b"x")).map(|_| ())
    };
    assert_eq!(respond("r=mineX,s=AAAA,i=1"), Ok(()));
    assert_eq!(respond("r=mineX,s=AAAA,i=1000001"), Err(ScramError::TooManyIterations(1_000_001)));
    assert_eq!(respond("r=mine,s=AAAA,i=1"), Err(ScramError::Nonce));
    assert_eq!(respond("r=minX,s=AAAA,i=1"), Err(ScramError::Nonce));
    assert_eq!(respond("m=x,r=mineX,s=AAAA,i=1"), Err(ScramError::UnsupportedExtension));
    assert_eq!(respond(&format!("r=mine{},s=AAAA,i=1", "X".repeat(1024))), Err(ScramError::TooLong));
    for bad in [
        "",
        "r=mineX",
        "r=mineX,s=AAAA",
        "r=mineX,s=,i=1",
        "r=mineX,s=A,i=1",
        "r=mineX,s=AAAA,i=",
        "s=AAAA,r=mineX,i=1",
    ]
    .into_iter()
    .chain(["r=mineX,s=AAAA,i=0", "r=mineX,s=AAAA,i=-1", "r=mineX,s=AAAA,i=+1", "r=mineX,s=AAAA,i=4294967296"])
    {
        assert!(matches!(respond(bad), Err(ScramError::Malformed(_))), "{bad}");
    }
}

#[test]
fn a_server_that_does_not_know_the_verifier_is_not_believed() {
    let expected = || {
        let (client, _) = ClientExchange::start_as("user", CLIENT_NONCE, Binding::Unavailable).unwrap();
        client.respond(SERVER_FIRST, &Credential::Password(b"pencil")).unwrap().1
    };
    let good = String::from_utf8(SERVER_FINAL.to_vec()).unwrap();
    assert_eq!(expected().verify(good.replace("v=6", "v=7").as_bytes()), Err(ScramError::ServerSignature));
    assert_eq!(expected().verify(b"e=invalid-proof"), Err(ScramError::Refused("invalid-proof".to_owned())));
    for bad in [&b""[..], b"v=", b"v=AAAA", b"x=y", b"v"] {
        assert!(matches!(expected().verify(bad), Err(ScramError::Malformed(_))));
    }
}

#[test]
fn passwords_are_prepared_as_postgresql_prepares_them() {
    // RFC 4013 section 3, and what it forbids stays as it is
    assert_eq!(*prepare("I\u{ad}X".as_bytes()), b"IX");
    assert_eq!(*prepare("\u{aa}".as_bytes()), b"a");
    assert_eq!(*prepare("\u{2168}".as_bytes()), b"IX");
    assert_eq!(*prepare(b"\x07"), b"\x07");
    assert_eq!(*prepare("\u{627}1".as_bytes()), "\u{627}1".as_bytes());
    assert_eq!(*prepare(b"\xff\xfe"), b"\xff\xfe");
    assert_eq!(*prepare(b""), b"");
}

proptest! {
    #[test]
    fn any_changed_byte_is_refused(at in any::<prop::sample::Index>(), to in any::<u8>(), which in 0..4_u8) {
        let verifier = cheap(b"secret");
        let change = |number: u8, message: Vec<u8>| {
            let mut message = message;
            if number == which {
                let at = at.index(message.len());
                // changing nothing would be no change
                message[at] = if message[at] == to { to.wrapping_add(1) } else { to };
            }
            message
        };
        let attempt = || {
            let bound = Binding::EndPoint(vec![1; 32]);
            let (client, first) = ClientExchange::start("clientnonce", bound.clone())?;
            let (server, challenge) = ServerExchange::start(&change(0, first), verifier.clone(), "servernonce", bound)?;
            let (answer, expected) = client.respond(&change(1, challenge), &Credential::Password(b"secret"))?;
            let (outcome, _) = server.finish(&change(2, answer))?;
            expected.verify(&change(3, outcome))
        };
        prop_assert!(attempt().is_err());
    }

    #[test]
    fn any_bytes_are_answered_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let (client, first) = ClientExchange::start("c", Binding::Unavailable).unwrap();
        let _ = ServerExchange::start(&bytes, cheap(b"x"), "s", Binding::Unavailable);
        let (server, challenge) = ServerExchange::start(&first, cheap(b"x"), "s", Binding::Unavailable).unwrap();
        prop_assert!(server.finish(&bytes).is_err());
        prop_assert!(client.read_server_first(&bytes).is_err());
        let (_, expected) = client.respond(&challenge, &Credential::Password(b"x")).unwrap();
        prop_assert!(expected.verify(&bytes).is_err());
    }

    #[test]
    fn any_password_logs_in_and_comes_back_as_the_same_key(password in prop::collection::vec(any::<u8>(), 0..40)) {
        let verifier = cheap(&password);
        let key = login(&verifier, &Credential::Password(&password), &Binding::Unavailable).unwrap();
        login(&verifier, &Credential::Keys(&verifier.keys(key)), &Binding::Unavailable).unwrap();
    }
}
