//! The state tracker: what any texts leave behind must be found, whatever stands around it, and looked after.

#![no_main]

use arbitrary::Arbitrary;
use howdah::proxy::session::trail::{Left, Trail};
use howdah::sql::assignment::{Assignments, Lone, custom_names};
use howdah::sql::deallocate::Deallocate;
use howdah::sql::effects::{Effects, mentions};
use howdah::sql::lexer::{Lexer, Token};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Said {
    texts: Vec<Vec<u8>>,
    hints: Vec<u8>,
    fails: bool,
}

/// Statements, and what must be found in each.
const PLANTED: [(&str, Effects); 7] = [
    ("set a.b = 'c'", Effects::SETS),
    ("reset all", Effects::RESETS),
    ("select set_config('a.b', 'c', false)", Effects::SETS),
    ("create temp table t ()", Effects::TEMPORARY),
    ("listen l", Effects::LISTENS),
    ("do $x$ begin end $x$", Effects::HIDES),
    ("select pg_advisory_lock(1)", Effects::ADVISORY),
];

/// Whether a statement behind `text` begins as one: nothing is open, no quote, no comment, no parenthesis.
fn is_whole(text: &[u8]) -> bool {
    let probe = [text, b"\n;zzz"].concat();
    let tokens: Vec<_> = Lexer::new(&probe).collect();
    let depth = tokens.iter().fold(0_i64, |depth, token| match token {
        Token::Symbol(b'(') => depth + 1,
        Token::Symbol(b')') => (depth - 1).max(0),
        _ => depth,
    });
    depth == 0 && tokens.ends_with(&[Token::Symbol(b';'), Token::Word(b"zzz")])
}

fuzz_target!(|said: Said| {
    let mut trail = Trail::default();
    let mut all = Effects::NONE;
    for text in &said.texts {
        let effects = Effects::of(text);
        all |= effects;
        trail.step();
        trail.note(effects, text, &said.hints);
        if let Some(Lone::Set(name, _) | Lone::Reset(name)) = Assignments::of(text).lone {
            assert!(!name.iter().any(u8::is_ascii_uppercase));
        }
        let _ = Deallocate::of(text);
        let mut names = 0;
        custom_names(text, 10, &mut |_| names += 1);
        assert!(names <= 10);
        mentions(text, &mut |_| false);
        if is_whole(text) {
            for (planted, effect) in PLANTED {
                let around = [text.as_slice(), b"\n;", planted.as_bytes()].concat();
                assert!(Effects::of(&around).any(effect), "{planted} behind {:?}", String::from_utf8_lossy(text));
            }
        }
        // what stands in front of a text hides nothing in it
        let behind = [b"select 1; ".as_slice(), text].concat();
        assert_eq!(Effects::of(&behind), effects);
    }
    if said.fails {
        trail.fail();
    }
    let pinning = all.and(Effects::PINNING.without(Effects::MOVES_SEQUENCE));
    let matters = all.any(Effects::SETS | Effects::HIDES) || !pinning.is_empty();
    assert_eq!(matters, !trail.is_quiet(Effects::NONE));
    match trail.left(Effects::NONE) {
        Left::Nothing => assert!(
            pinning.without(Effects::LASTING).is_empty()
                && (said.fails || !matters || all.any(Effects::SETS | Effects::LASTING))
        ),
        Left::Known(_) => assert!(said.texts.len() == 1 && !said.fails && pinning.is_empty()),
        Left::Ask(question) => {
            assert!(matters && (question.all || !question.names.is_empty() || !question.pins.is_empty()))
        }
    }
    assert!(trail.is_quiet(Effects::NONE) && trail.effects().is_empty());
});
