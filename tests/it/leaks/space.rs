//! What there is to set, the ways to set it and the ways a transaction ends: everything the leak tests walk.
//!
//! A [`Case`] is the product of these: a login with settings of its own, and what it then sends.

use crate::support::random::Random;
use crate::support::wire::{self, Client};

/// Custom settings, which no catalogue lists.
const PLACEHOLDERS: [&str; 3] = ["app.tenant", "app.user", "deep.er.name"];
/// Levels at which a server would tell every client how it works.
const LOUD: [&str; 7] = ["debug", "debug1", "debug2", "debug3", "debug4", "debug5", "log"];

/// Something that can be set, and a value it does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    pub value: String,
}

/// Every row of pg_settings that this login can set, with a value that it has not and that PostgreSQL takes; then what
/// pg_settings does not show. And how many rows have no second value.
pub fn settings(connect: &dyn Fn() -> Client, role: &str, superuser: bool) -> (Vec<Setting>, Vec<String>) {
    let contexts = if superuser { "'user', 'superuser'" } else { "'user'" };
    let rows = connect().query(&format!(
        "SELECT name, setting, vartype, min_val, max_val, array_to_string(enumvals, ',') FROM pg_settings
         WHERE context IN ({contexts}) ORDER BY name"
    ));
    let (mut found, mut without) = (Vec::new(), Vec::new());
    for row in rows.iter().filter(|m| m.tag == b'D') {
        let column: Vec<String> = row.columns().into_iter().map(Option::unwrap_or_default).collect();
        let name = column[0].clone();
        let taken = candidates(&column).into_iter().find(|value| changes(&mut connect(), &name, value));
        match taken {
            Some(value) => found.push(Setting { name, value }),
            None => without.push(name),
        }
    }
    found.extend(PLACEHOLDERS.map(|name| Setting { name: name.to_owned(), value: format!("of {name}") }));
    found.push(Setting { name: "role".to_owned(), value: role.to_owned() });
    if superuser {
        found.push(Setting { name: "session_authorization".to_owned(), value: role.to_owned() });
    }
    (found, without)
}

fn changes(client: &mut Client, name: &str, value: &str) -> bool {
    let was = client.value(&format!("SELECT current_setting('{name}')"));
    client.query(&format!("SELECT set_config('{name}', '{value}', false)"));
    let is = client.query(&format!("SELECT current_setting('{name}')"));
    wire::first_column(&is).first().is_some_and(|is| *is != was)
}

fn candidates(column: &[String]) -> Vec<String> {
    let [name, setting, vartype, min, max, enumvals] = column else { panic!("six columns") };
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    match vartype.as_str() {
        "bool" => texts(&[if setting == "on" { "off" } else { "on" }]),
        "enum" => enumvals.split(',').filter(|v| !LOUD.contains(v)).map(str::to_owned).collect(),
        "integer" | "real" => {
            let number = |text: &str| text.parse::<f64>().unwrap();
            let (is, min, max) = (number(setting), number(min), number(max));
            let large = 123_456.0; // as a time limit it is not reached
            [if is <= 0.0 { large } else { is + 1.0 }, is - 1.0, (is / 2.0), is + 0.5, large]
                .into_iter()
                .filter(|value| (min..=max).contains(value) && *value != is)
                .map(|value| value.to_string())
                .collect()
        }
        _ => match name.as_str() {
            "DateStyle" => texts(&["German, DMY"]),
            "TimeZone" => texts(&["Asia/Kolkata"]),
            "client_encoding" => texts(&["LATIN1"]),
            "default_text_search_config" => texts(&["pg_catalog.german"]),
            "dynamic_library_path" => texts(&["$libdir:/nowhere"]),
            "search_path" => texts(&["leak_path"]),
            "timezone_abbreviations" => texts(&["Australia"]),
            "createrole_self_grant" => texts(&["set"]),
            "restrict_nonsystem_relation_kind" => texts(&["foreign-table"]), // not views: one of the ways
            _ => texts(&["C.UTF-8", "POSIX", "pg_default", "nowhere"]),
        },
    }
}

/// How something is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Set,
    SetLocal,
    SetConfig,
    SetConfigLocal,
    SqlFunction,
    PlpgsqlFunction,
    Procedure,
    Do,
    Trigger,
    Rule,
    Check,
    View,
    Default,
    ExplainAnalyze,
    Prepared,
    Cursor,
    Escaped,
    FromText,
    UpdateOfPgSettings,
    ThenReset,
    ThenResetAll,
    ThenDefault,
}

pub const WAYS: [Way; 22] = [
    Way::Set,
    Way::SetLocal,
    Way::SetConfig,
    Way::SetConfigLocal,
    Way::SqlFunction,
    Way::PlpgsqlFunction,
    Way::Procedure,
    Way::Do,
    Way::Trigger,
    Way::Rule,
    Way::Check,
    Way::View,
    Way::Default,
    Way::ExplainAnalyze,
    Way::Prepared,
    Way::Cursor,
    Way::Escaped,
    Way::FromText,
    Way::UpdateOfPgSettings,
    Way::ThenReset,
    Way::ThenResetAll,
    Way::ThenDefault,
];

impl Way {
    /// The statements that do it. `at` is the setting's place in the list, and in the names of what [`objects`] made.
    pub fn statements(self, at: usize, setting: &Setting) -> Vec<String> {
        let Setting { name, value } = setting;
        let config = format!("set_config('{name}', '{value}', false)");
        let set = |local: &str| match name.as_str() {
            "role" => format!("SET {local} ROLE {value}"),
            "session_authorization" => format!("SET {local} SESSION AUTHORIZATION {value}"),
            _ => format!("SET {local} \"{name}\" TO '{value}'"),
        };
        let reset = match name.as_str() {
            "role" => "RESET ROLE".to_owned(),
            "session_authorization" => "RESET SESSION AUTHORIZATION".to_owned(),
            _ => format!("RESET \"{name}\""),
        };
        let one = |sql: String| vec![sql];
        match self {
            Self::Set => one(set("")),
            Self::SetLocal => one(set("LOCAL")),
            Self::SetConfig => one(format!("SELECT {config}")),
            Self::SetConfigLocal => one(format!("SELECT set_config('{name}', '{value}', true)")),
            Self::SqlFunction => one(format!("SELECT leak.by_sql('{name}', '{value}')")),
            Self::PlpgsqlFunction => one(format!("SELECT leak.by_plpgsql('{name}', '{value}')")),
            Self::Procedure => one(format!("CALL leak.by_procedure('{name}', '{value}')")),
            Self::Do => one(format!("DO $$ BEGIN PERFORM {config}; END $$")),
            Self::Trigger => one(format!("INSERT INTO leak.triggered VALUES ('{name}', '{value}')")),
            Self::Rule => one(format!("INSERT INTO leak.ruled VALUES ('{name}', '{value}')")),
            Self::Check => one(format!("INSERT INTO leak.checked VALUES ('{name}', '{value}')")),
            Self::View => one(format!("SELECT * FROM leak.v{at}")),
            Self::Default => one(format!("INSERT INTO leak.d{at} (n) VALUES (1)")),
            Self::ExplainAnalyze => one(format!("EXPLAIN (ANALYZE, COSTS OFF) SELECT {config}")),
            Self::Prepared => {
                vec![format!("PREPARE p{at} AS SELECT {config}"), format!("EXECUTE p{at}"), format!("DEALLOCATE p{at}")]
            }
            Self::Cursor => vec![format!("DECLARE c{at} CURSOR FOR SELECT {config}"), format!("FETCH c{at}")],
            Self::Escaped => one(format!("SELECT U&\"set\\005Fconfig\"('{name}', '{value}', false)")),
            Self::FromText => {
                one(format!("SELECT query_to_xml('SELECT {}', true, false, '')", config.replace('\'', "''")))
            }
            Self::UpdateOfPgSettings => {
                one(format!("UPDATE pg_settings SET setting = '{value}' WHERE name = '{name}'"))
            }
            Self::ThenReset => vec![set(""), reset],
            Self::ThenResetAll => vec![set(""), "RESET ALL".into()],
            Self::ThenDefault => vec![set(""), format!("SELECT set_config('{name}', NULL, false)")],
        }
    }
}

/// What the ways need, made once by a superuser in the schema `leak`, for all roles.
pub fn objects(settings: &[Setting]) -> String {
    let mut sql = "
        CREATE SCHEMA leak; CREATE SCHEMA leak_path;
        CREATE FUNCTION leak.by_sql(n text, v text) RETURNS text LANGUAGE sql AS $$ SELECT set_config(n, v, false) $$;
        CREATE FUNCTION leak.by_plpgsql(n text, v text) RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN EXECUTE 'SELECT ' || 'set_' || format('config(%L, %L, false)', n, v); END $$;
        CREATE PROCEDURE leak.by_procedure(n text, v text) LANGUAGE plpgsql AS
            $$ BEGIN PERFORM set_config(n, v, false); END $$;
        CREATE FUNCTION leak.fires() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM set_config(NEW.n, NEW.v, false); RETURN NULL; END $$;
        CREATE TABLE leak.triggered (n text, v text);
        CREATE TRIGGER t BEFORE INSERT ON leak.triggered FOR EACH ROW EXECUTE FUNCTION leak.fires();
        CREATE TABLE leak.ruled (n text, v text);
        CREATE RULE r AS ON INSERT TO leak.ruled DO INSTEAD SELECT set_config(NEW.n, NEW.v, false);
        CREATE TABLE leak.checked (n text, v text CHECK (set_config(n, v, false) IS NULL OR true));\n"
        .to_owned();
    for (at, Setting { name, value }) in settings.iter().enumerate() {
        let config = format!("set_config('{name}', '{value}', false)");
        sql += &format!("CREATE VIEW leak.v{at} AS SELECT {config};\n");
        sql += &format!("CREATE TABLE leak.d{at} (n int, x text DEFAULT {config});\n");
    }
    sql + "GRANT USAGE ON SCHEMA leak, leak_path TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA leak TO PUBLIC;"
}

/// How the transaction around it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Autocommit,
    Commit,
    Rollback,
    RollbackTo,
    Release,
    Chain,
    Error,
    ErrorRolledBackTo,
    ErrorBehind,
    Vanish,
}

pub const ENDINGS: [Ending; 10] = [
    Ending::Autocommit,
    Ending::Commit,
    Ending::Rollback,
    Ending::RollbackTo,
    Ending::Release,
    Ending::Chain,
    Ending::Error,
    Ending::ErrorRolledBackTo,
    Ending::ErrorBehind,
    Ending::Vanish,
];

impl Ending {
    fn around(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Autocommit => (&[], &[]),
            Self::Commit => (&["BEGIN"], &["COMMIT"]),
            Self::Rollback => (&["BEGIN"], &["ROLLBACK"]),
            Self::RollbackTo => (&["BEGIN", "SAVEPOINT a"], &["ROLLBACK TO a", "COMMIT"]),
            Self::Release => (&["BEGIN", "SAVEPOINT a"], &["RELEASE a", "COMMIT"]),
            Self::Chain => (&["BEGIN"], &["COMMIT AND CHAIN", "ROLLBACK"]),
            Self::Error => (&["BEGIN"], &["SELECT 1/0", "COMMIT"]),
            Self::ErrorRolledBackTo => (&["BEGIN", "SAVEPOINT a"], &["SELECT 1/0", "ROLLBACK TO a", "COMMIT"]),
            Self::ErrorBehind => (&[], &["SELECT 1/0"]),
            Self::Vanish => (&["BEGIN"], &[]),
        }
    }
}

/// How statements travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A Query each.
    Simple,
    /// One Query for all.
    Several,
    /// Parse, Bind, Execute, Sync each.
    Extended,
    /// Parse, Bind, Execute each, and one Sync in the end.
    Batch,
}

pub const PROTOCOLS: [Protocol; 4] = [Protocol::Simple, Protocol::Several, Protocol::Extended, Protocol::Batch];

/// What is sent in one write, and how many ReadyForQuery end it.
pub type Turn = (Vec<u8>, usize);

impl Protocol {
    fn turns(self, statements: &[String]) -> Vec<Turn> {
        let execute =
            |sql: &String| [wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::execute("", 0)].concat();
        match self {
            Self::Simple => statements.iter().map(|sql| (wire::query(sql), 1)).collect(),
            Self::Several => vec![(wire::query(&statements.join("; ")), 1)],
            Self::Extended => statements.iter().map(|sql| ([execute(sql), wire::sync()].concat(), 1)).collect(),
            Self::Batch => {
                let all: Vec<_> = statements.iter().map(execute).collect();
                vec![([all.concat(), wire::sync()].concat(), 1)]
            }
        }
    }
}

/// One thing to try.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// What it is, for people.
    pub label: String,
    /// What the startup packet says besides user and database.
    pub startup: Vec<(String, String)>,
    /// The statements, for people.
    pub text: Vec<String>,
    pub turns: Vec<Turn>,
    /// The client does not say goodbye, and its last transaction may be open.
    pub vanish: bool,
}

impl Case {
    /// Several settings, each by one way, in one transaction with one ending.
    pub fn walk(settings: &[(usize, &Setting)], way: Way, ending: Ending, protocol: Protocol) -> Self {
        let names: Vec<_> = settings.iter().map(|(_, setting)| setting.name.as_str()).collect();
        let mut case =
            Self { label: format!("{way:?} {ending:?} {protocol:?} of {}", names.join(", ")), ..Self::default() };
        let (before, behind) = ending.around();
        let mut statements: Vec<String> = before.iter().map(|sql| (*sql).to_owned()).collect();
        statements.extend(settings.iter().flat_map(|(at, setting)| way.statements(*at, setting)));
        statements.extend(behind.iter().map(|sql| (*sql).to_owned()));
        case.send(protocol, &statements);
        case.vanish = ending == Ending::Vanish;
        case
    }

    /// Set by the startup packet, and what undoes other settings undoes this one not.
    pub fn startup(setting: &Setting, options: bool, then: &[&str]) -> Self {
        let Setting { name, value } = setting;
        let pair = match options {
            true => ("options".to_owned(), format!("-c {name}={}", value.replace(' ', "\\ "))),
            false => (name.clone(), value.clone()),
        };
        let how = if options { "options" } else { "startup packet" };
        let mut case = Self { label: format!("{how} {then:?} of {name}"), startup: vec![pair], ..Self::default() };
        let then: Vec<String> = then.iter().map(|sql| (*sql).to_owned()).collect();
        case.send(Protocol::Simple, &then);
        case
    }

    pub fn send(&mut self, protocol: Protocol, statements: &[String]) {
        self.text.push(format!("{protocol:?}: {}", statements.join("; ")));
        self.turns.extend(protocol.turns(statements));
    }

    /// Transactions of any shape that set anything in any way.
    pub fn random(settings: &[Setting], random: &mut Random) -> Self {
        let mut case = Self { label: "random".to_owned(), ..Self::default() };
        if random.one_in(3) {
            let setting = &settings[random.index(settings.len())];
            case.startup = Self::startup(setting, random.one_in(2), &[]).startup;
        }
        // a few, so that they meet again
        let few: Vec<usize> = (0..1 + random.index(4)).map(|_| random.index(settings.len())).collect();
        for _ in 0..1 + random.index(4) {
            let protocol = PROTOCOLS[random.index(PROTOCOLS.len())];
            let block = random.one_in(2);
            let mut statements: Vec<String> = Vec::new();
            if block {
                statements.push("BEGIN".to_owned());
            }
            for _ in 0..1 + random.index(4) {
                let at = few[random.index(few.len())];
                let mut setting = settings[at].clone();
                match random.below(8) {
                    0 if block => statements.push("SAVEPOINT a".to_owned()),
                    1 if block => statements.push("ROLLBACK TO a".to_owned()),
                    2 if random.one_in(3) => statements.push("RESET ALL".to_owned()),
                    3 if random.one_in(3) => statements.push("SELECT 1/0".to_owned()),
                    4 if setting.name.contains('.') => {
                        setting.value = format!("number {}", random.below(9));
                        statements.extend(Way::Set.statements(at, &setting));
                    }
                    _ => statements.extend(WAYS[random.index(WAYS.len())].statements(at, &setting)),
                }
            }
            if block {
                let end = ["COMMIT", "COMMIT", "ROLLBACK", "COMMIT AND CHAIN; ROLLBACK"][random.index(4)];
                statements.extend(end.split("; ").map(str::to_owned));
            }
            case.send(protocol, &statements);
            if block {
                case.send(Protocol::Simple, &["ROLLBACK".to_owned()]); // where the end itself was skipped
            }
        }
        case.vanish = random.one_in(10);
        case
    }
}
