//! All that a text says about where it may run; and, with what is known of a database, where it may.
//!
//! [`Analysis::of`] is the cold path: once per fingerprint, and everything in it is derived from the fingerprint, so that
//! texts with one fingerprint cannot differ. Two keys must turn for a read: its words ([`super::statement`], [`super::query`]) and
//! another grammar ([`super::second_opinion`]). [`Analysis::verdict`] is the hot path: a number compared, unless the
//! catalogue was read anew in between.
//!
//! Whatever is not understood is [`Class::Unknown`]. Not here: sessions (a statement may read and yet belong to a block
//! that writes), hints (they are only reported: [`Analysis::hint`]), and `standard_conforming_strings = off`, under which
//! nothing here is true.

use std::sync::atomic::{AtomicU64, Ordering};

use super::begin::{Access, Isolation, Modes};
use super::built_ins;
use super::class::{Class, Hint, Reason, Verdict};
use super::fingerprint;
use super::knowledge::{Knowledge, Standing};
use super::opening::Opening;
use super::query::{self, Names};
use super::statement::{Statement, statements};

/// Longer texts are not looked into: the second grammar's trees could overflow a stack when they are dropped.
pub const TEXT_MAX: usize = 16 * 1024;

/// Bits of the memo that hold a verdict; the rest hold its generation.
const VERDICT_BITS: u32 = 16;

/// What a text says without a database.
#[derive(Debug)]
pub struct Analysis {
    /// The leading comment, if it is a hint and hints were looked for.
    pub hint: Option<Hint>,
    /// What the text opens with.
    pub opening: Opening,
    /// What the text says about the block it begins, if beginning one is all it does.
    pub access: Option<Access>,
    /// Likewise.
    pub isolation: Option<Isolation>,
    /// Why a standby might do something else than the primary and say nothing, whatever kind of statement it is.
    silent: Option<Reason>,
    said: Said,
    /// The last generation that was asked about, and the verdict; 0 when none was.
    memo: AtomicU64,
}

/// What the text alone comes to.
#[derive(Debug)]
enum Said {
    /// This, whatever the database.
    Settled(Verdict),
    /// It reads, if these names do.
    Reads(Names),
}

impl Analysis {
    /// Analyses `sql`, any number of statements. Never panics; allocates.
    #[must_use]
    pub fn of(sql: &[u8], hints: bool) -> Self {
        if sql.len() > TEXT_MAX {
            return Self::too_long();
        }
        let mut text = Vec::with_capacity(sql.len());
        fingerprint::write(sql, hints, &mut text);
        Self::of_fingerprint(&text)
    }

    /// Analyses what [`fingerprint::write`] has written.
    #[must_use]
    pub fn of_fingerprint(text: &[u8]) -> Self {
        let (modes, said) = match statements(text).as_deref() {
            Err(reason) => (Modes::default(), Err(Verdict::unknown(*reason))),
            Ok([]) => (Modes::default(), Err(Verdict::new(Class::Read, Reason::Empty))),
            Ok([one]) => (one.modes(), one.said()),
            Ok(several) => (Modes::default(), all_read(several)),
        };
        Self {
            hint: Hint::of(text),
            opening: Opening::of(text),
            access: modes.access,
            isolation: modes.isolation,
            silent: built_ins::silent_on_standby(text),
            said: said.map_or_else(Said::Settled, Said::Reads),
            memo: AtomicU64::new(0),
        }
    }

    /// What there is to say of any text longer than [`TEXT_MAX`]. Its opening is not known here.
    #[must_use]
    pub fn too_long() -> Self {
        Self {
            hint: None,
            opening: Opening::Other,
            access: None,
            isolation: None,
            silent: None,
            said: Said::Settled(Verdict::unknown(Reason::TooLong)),
            memo: AtomicU64::new(0),
        }
    }

    /// Whether the verdict does not depend on a database.
    #[must_use]
    pub const fn settled(&self) -> Option<Verdict> {
        match self.said {
            Said::Settled(verdict) => Some(verdict),
            Said::Reads(_) => None,
        }
    }

    /// What its hint makes of it, if it has one. Not even a hint sends to a standby what would do something else there and say
    /// nothing.
    ///
    /// Nor a `DO`, whose code is not looked into.
    #[must_use]
    pub fn hinted(&self) -> Option<Verdict> {
        let hint = self.hint?;
        if hint == Hint::Primary {
            return Some(hint.verdict());
        }
        let runs_code = self.settled().filter(|verdict| verdict.reason == Reason::Do);
        Some(self.silent.map(Verdict::write).or(runs_code).unwrap_or(hint.verdict()))
    }

    /// Why `sql`, whose analysis this is, might do something else on a standby than on the primary and say nothing.
    #[must_use]
    pub fn silent(&self, sql: &[u8]) -> Option<Reason> {
        match self.settled().map(|verdict| verdict.reason) {
            Some(Reason::TooLong) => built_ins::silent_on_standby(sql),
            Some(Reason::Do) => built_ins::may_be_silent_on_standby(sql),
            _ => self.silent,
        }
    }

    /// Where it may run, by what is known of its database. Allocates nothing.
    pub fn verdict(&self, knowledge: &impl Knowledge) -> Verdict {
        let names = match &self.said {
            Said::Settled(verdict) => return *verdict,
            Said::Reads(names) => names,
        };
        let generation = knowledge.generation();
        if generation == 0 {
            return Verdict::unknown(Reason::CatalogueUnread);
        }
        let memo = self.memo.load(Ordering::Relaxed);
        if memo >> VERDICT_BITS == generation
            && let Some(verdict) = u16::try_from(memo & 0xffff).ok().and_then(Verdict::unpack)
        {
            return verdict;
        }
        let verdict = by_names(names, knowledge);
        // a generation that does not fit is asked for anew every time
        if generation >> (u64::BITS - VERDICT_BITS) == 0 {
            self.memo.store(generation << VERDICT_BITS | u64::from(verdict.pack()), Ordering::Relaxed);
        }
        verdict
    }

    /// A standby has refused to run it although [`Self::verdict`] said that it reads: until something else is known, it does
    /// not.
    pub fn refused(&self, knowledge: &impl Knowledge) {
        let generation = knowledge.generation();
        if matches!(self.said, Said::Reads(_)) && generation != 0 && generation >> (u64::BITS - VERDICT_BITS) == 0 {
            let verdict = Verdict::write(Reason::RefusedByStandby);
            self.memo.store(generation << VERDICT_BITS | u64::from(verdict.pack()), Ordering::Relaxed);
        }
    }

    /// The names of the functions that it calls, folded; of a candidate for a standby only.
    pub fn calls(&self) -> impl Iterator<Item = &[u8]> {
        self.names().into_iter().flat_map(|names| &names.calls).map(|name| &**name)
    }

    /// All other names in it; of a candidate for a standby only.
    pub fn others(&self) -> impl Iterator<Item = &[u8]> {
        self.names().into_iter().flat_map(|names| names.maybe.iter().chain(&names.others)).map(|name| &**name)
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        const EACH: usize = size_of::<query::Name>() + 16; // and what the allocator adds
        let names = self.calls().chain(self.others()).map(|name| name.len() + EACH).sum::<usize>();
        size_of::<Self>() + names
    }

    const fn names(&self) -> Option<&Names> {
        match &self.said {
            Said::Settled(_) => None,
            Said::Reads(names) => Some(names),
        }
    }
}

/// What the names of a text that otherwise reads come to.
fn by_names(names: &Names, knowledge: &impl Knowledge) -> Verdict {
    if knowledge.writes_everywhere() {
        return Verdict::unknown(Reason::WritesEverywhere);
    }
    for name in &names.calls {
        match knowledge.function(name) {
            Standing::Reads if knowledge.writes(name) => return Verdict::write(Reason::WritingName),
            Standing::Reads => {}
            Standing::Writes => return Verdict::write(Reason::WritingFunction),
            Standing::Unknown => return Verdict::unknown(Reason::UnknownFunction),
        }
    }
    for name in &names.maybe {
        if knowledge.function(name) == Standing::Writes {
            return Verdict::write(Reason::WritingFunction);
        }
    }
    for name in names.maybe.iter().chain(&names.others) {
        if knowledge.writes(name) {
            return Verdict::write(Reason::WritingName);
        }
    }
    Verdict::new(Class::Read, Reason::Reads)
}

/// The names of all, if all of them read.
fn all_read(statements: &[Statement<'_>]) -> Result<Names, Verdict> {
    let mut all = Names::default();
    for statement in statements {
        all.join(statement.said().map_err(|_| Verdict::unknown(Reason::SeveralStatements))?);
    }
    all.settle();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A catalogue that knows what its names say.
    struct Known(u64);

    impl Knowledge for Known {
        fn generation(&self) -> u64 {
            self.0
        }
        fn function(&self, name: &[u8]) -> Standing {
            match name {
                _ if name.starts_with(b"writes") => Standing::Writes,
                _ if name.starts_with(b"unknown") => Standing::Unknown,
                b"join" | b"g" | b"v" | b"bpchar" | b"over" | b"filter" | b"cte" => Standing::Unknown,
                _ => Standing::Reads,
            }
        }
        fn writes(&self, name: &[u8]) -> bool {
            name.starts_with(b"bad")
        }
        fn writes_everywhere(&self) -> bool {
            self.0 == 99
        }
    }

    fn verdict(sql: &str) -> Verdict {
        Analysis::of(sql.as_bytes(), true).verdict(&Known(1))
    }

    #[test]
    fn names_decide_what_words_allow() {
        for (sql, reason) in [
            ("select f(1)", Reason::Reads),
            ("select writes_a(1)", Reason::WritingFunction),
            ("select s.Writes_A (1)", Reason::WritingFunction),
            ("select unknown(1)", Reason::UnknownFunction),
            ("select \"unknown\"(1)", Reason::UnknownFunction),
            ("select * from f(1) as g(a, b)", Reason::Reads),
            ("select * from (values (1)) v(a)", Reason::Reads),
            ("select * from t g(a)", Reason::Reads),
            ("select 'x'::bpchar(3), cast(a as bpchar(3)), a::numeric(10, 2)", Reason::Reads),
            ("with cte(a) as (select 1), g(b) as materialized (select 2) select * from cte", Reason::Reads),
            ("select * from a, unknown(1) as g(a)", Reason::UnknownFunction),
            ("select distinct on (a) unknown(b) from t", Reason::UnknownFunction),
            ("select a operator(pg_catalog.+) unknown(b) from t", Reason::UnknownFunction),
            ("select * from a join (select 1) x on true", Reason::Reads),
            ("select sum(a) over (partition by b), count(*) filter (where c) from t", Reason::Reads),
            ("select writes_x(1) from t g(a)", Reason::WritingFunction),
            ("select * from t writes_x(a)", Reason::WritingFunction),
            ("select * from bad", Reason::WritingName),
            ("select a.bad from a", Reason::WritingName),
            ("select bad('x')", Reason::WritingName),
            ("select 'x'::bad(3)", Reason::WritingName),
            ("select random(), coalesce(a, b), left(c, 1) from t", Reason::Reads),
            ("select nextval('s')", Reason::Sequence),
            ("select ('s'::regclass).nextval", Reason::Sequence),
            ("select nextval from t", Reason::Reads),
            ("select ('x'::text).writes_x, t.writes_x, (t).a from t", Reason::WritingFunction),
            ("select ((x).a).writes_x from t", Reason::WritingFunction),
            ("select (x).a.writes_x from t", Reason::WritingFunction),
            ("select x[1].writes_x from t", Reason::WritingFunction),
            ("select $1.writes_x from t", Reason::WritingFunction),
            ("select (x).unknown, t.writes_x, s.t.writes_x from t", Reason::Reads),
            ("select treat(a as b)", Reason::Ambiguous),
            ("copy (select f(1)) to stdout (format csv)", Reason::Reads),
            ("copy t (a, b) to stdout", Reason::Reads),
            ("copy bad to stdout", Reason::WritingName),
            ("copy t to program 'x'", Reason::Copy),
            ("explain (costs off) select writes_x(1)", Reason::WritingFunction),
            ("explain (analyze off) select 1", Reason::ExplainAnalyze),
            ("select 1; select 2;", Reason::Reads),
            ("select 1; commit", Reason::SeveralStatements),
            ("table only t *", Reason::Reads),
            ("table bad", Reason::WritingName),
        ] {
            assert_eq!(verdict(sql).reason, reason, "{sql}");
        }
    }

    #[test]
    fn what_would_be_silent_on_a_standby_is_found_in_every_kind_of_statement_and_no_hint_sends_it_there() {
        let lock = Some(Reason::AdvisoryLock);
        for (sql, silent) in [
            ("select 1", None),
            ("select 'pg_advisory_lock(1)'", None),
            ("select 1; select PG_Advisory_Lock(1)", lock),
            ("select 1; select \"pg_try_advisory_xact_lock\"(1); garbage", lock),
            ("explain analyze select pg_advisory_lock(1)", lock),
            ("declare c cursor for select pg_advisory_lock(1)", lock),
            ("prepare p as select pg_catalog.pg_advisory_lock($1)", lock),
            ("copy (select pg_export_snapshot()) to stdout", Some(Reason::ExportSnapshot)),
            ("do $$ begin perform pg_advisory_lock(1); end $$", lock),
            ("do $$ begin perform 1; end $$", None),
        ] {
            let analysis = Analysis::of(sql.as_bytes(), true);
            assert_eq!(analysis.silent(sql.as_bytes()), silent, "{sql}");
            let hinted = Analysis::of(format!("/* howdah: replica */ {sql}").as_bytes(), true).hinted().unwrap();
            let stays = silent.is_some() || sql.starts_with("do");
            assert_eq!(hinted.class, if stays { Class::Write } else { Class::Read }, "{sql}");
            let hinted = Analysis::of(format!("/* howdah: primary */ {sql}").as_bytes(), true).hinted().unwrap();
            assert_eq!(hinted.reason, Reason::HintPrimary);
        }
        let long = format!("select pg_advisory_lock(1), '{}'", "x".repeat(TEXT_MAX));
        assert_eq!(Analysis::of(long.as_bytes(), true).silent(long.as_bytes()), lock);
    }

    #[test]
    fn a_verdict_holds_for_one_generation_of_knowledge() {
        let analysis = Analysis::of(b"select f(1)", false);
        assert_eq!(analysis.verdict(&Known(0)), Verdict::unknown(Reason::CatalogueUnread));
        assert_eq!(analysis.verdict(&Known(1)).class, Class::Read);
        assert_eq!(analysis.verdict(&Known(99)).reason, Reason::WritesEverywhere);
        assert_eq!(analysis.verdict(&Known(u64::MAX)).class, Class::Read);
        assert_eq!(analysis.verdict(&Known(99)).reason, Reason::WritesEverywhere);
        assert_eq!(analysis.verdict(&Known(0)), Verdict::unknown(Reason::CatalogueUnread));
    }
}
