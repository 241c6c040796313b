//! What single words of a text say of its effects: the first of a statement, kinds of things, names of functions.

use super::Effects;
use super::reading::Verb;

/// What the first word of a statement says.
pub(super) fn opening(word: &[u8]) -> (Effects, Verb) {
    match word {
        b"set" => (Effects::NONE, Verb::Set),
        b"reset" => (Effects::SETS | Effects::RESETS, Verb::Other),
        b"discard" => (Effects::SETS | Effects::RESETS | Effects::FREES, Verb::Other),
        b"listen" => (Effects::LISTENS, Verb::Other),
        b"unlisten" | b"deallocate" | b"close" | b"drop" => (Effects::FREES, Verb::Other),
        b"load" => (Effects::LASTING, Verb::Other),
        b"prepare" => (Effects::NONE, Verb::Prepare),
        b"execute" => (Effects::HIDES, Verb::Other),
        b"do" => (Effects::HIDES, Verb::Do),
        b"declare" => (Effects::NONE, Verb::Declare),
        b"create" => (Effects::CREATES, Verb::Create),
        b"alter" => (Effects::NONE, Verb::Alter),
        b"import" => (Effects::DEFINES.or(Effects::OUTDATES), Verb::Other),
        b"copy" => (Effects::MOVES_SEQUENCE, Verb::Other),
        b"explain" => (Effects::NONE, Verb::Explain),
        b"update" => (Effects::NONE, Verb::Update),
        _ => (Effects::NONE, Verb::Other),
    }
}

/// What a word of `CREATE …` adds.
pub(super) fn defined(word: &[u8]) -> Effects {
    match word {
        b"temp" | b"temporary" => Effects::TEMPORARY,
        b"function" | b"procedure" | b"operator" | b"aggregate" | b"cast" | b"extension" | b"conversion"
        | b"language" | b"event" => Effects::DEFINES,
        b"table" | b"view" | b"trigger" | b"rule" | b"policy" | b"domain" | b"type" | b"index" => Effects::REFERS,
        _ => Effects::NONE,
    }
}

/// What the kind of thing that is created or altered says about who may be read on a standby.
pub(super) fn outdated(kind: &[u8]) -> Effects {
    match kind {
        b"function" | b"procedure" | b"aggregate" | b"operator" | b"cast" | b"extension" | b"view" | b"rule"
        | b"policy" | b"domain" | b"type" | b"foreign" | b"sequence" => Effects::OUTDATES,
        _ => Effects::NONE,
    }
}

/// Whether `text` contains `word`, whatever the case.
pub(super) fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

/// What a function of PostgreSQL's own leaves behind.
pub(super) fn built_in(word: &[u8]) -> Effects {
    match word {
        b"pg_advisory_lock" | b"pg_advisory_lock_shared" | b"pg_try_advisory_lock" | b"pg_try_advisory_lock_shared" => {
            Effects::ADVISORY
        }
        b"pg_create_logical_replication_slot"
        | b"pg_create_physical_replication_slot"
        | b"pg_copy_logical_replication_slot"
        | b"pg_copy_physical_replication_slot" => Effects::SLOTS,
        _ if word.starts_with(b"pg_temp") => Effects::TEMPORARY,
        _ if word.starts_with(b"pg_advisory_unlock") || word == b"pg_drop_replication_slot" => Effects::FREES,
        _ => Effects::NONE,
    }
}
