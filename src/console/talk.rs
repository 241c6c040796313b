//! A conversation at the console: messages in, messages out, until either side has enough.
//!
//! The messages are pgwire's, behind howdah's own front door; the loop is ours, because pgwire's handlers end each tag with the
//! number of rows, which PgBouncer does not. Frames are cut here before pgwire sees them: it believes no length and panics on
//! bodies that are too short, so each is read as a frame of its own, of at most [`FRAME_MAX`] bytes, and what panics is a broken
//! message.
//!
//! Not here: what is asked (`command`), what is shown (`show`).

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::startup::ParameterStatus;
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage};

use super::answer::{Column, Done, Formats, Refused, Row, Table, data_row, description};
use super::command::{Command, Dialect, Shutdown, parse};
use super::divide::statements;
use super::names::{Names, Portal, Prepared};
use super::refusal::ConsoleError;
use super::seat::{self, Access, Seat};
use super::show;
use crate::net::stream::Stream;
use crate::pg::SqlState;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_header};
use crate::protocol::messages;
use crate::proxy::client::{ClientHandle, Signal};
use crate::proxy::door::Caller;
use crate::proxy::handshake::Presence;

/// The longest message that is read, in bytes. Commands are short.
const FRAME_MAX: usize = 64 * 1_024;
/// How much of an answer is gathered before it is sent, in bytes.
const GATHERED_MAX: usize = 64 * 1_024;

/// Why a conversation ends.
#[derive(Debug)]
enum End {
    /// The client said goodbye, or went without.
    Left,
    /// KILL_CLIENT.
    Disconnected,
    /// howdah is shutting down.
    ShuttingDown,
    /// The client does not speak the protocol.
    Broken(&'static str),
}

/// A conversation.
pub(super) struct Talk {
    pub(super) seat: Arc<Seat>,
    pub(super) access: Access,
    stream: Stream,
    handle: Arc<ClientHandle>,
    presence: Presence,
    input: BytesMut,
    output: BytesMut,
    context: DecodeContext,
    names: Names,
    /// An error came: everything up to the Sync is passed over.
    skips: bool,
}

/// Has a conversation. The answer says how it ended.
pub(super) async fn talk(seat: Arc<Seat>, access: Access, caller: Caller) -> &'static str {
    let Caller { stream, last, sent, claim, handle, mut presence, .. } = caller;
    let key = presence.worker.shared.cancels.register(&handle, claim.long_keys);
    let mut greeting = last;
    greeting.extend(messages::AUTHENTICATION_OK);
    let mut output = BytesMut::from(greeting.as_slice());
    let name = presence.entry.facts.application_name();
    for (parameter, value) in seat.parameters().iter().chain([("application_name", &*name)].iter()) {
        let status = ParameterStatus::new((*parameter).to_owned(), (*value).to_owned());
        put(&mut output, &PgWireBackendMessage::ParameterStatus(status));
    }
    let mut rest = Vec::new();
    messages::backend_key_data(&mut rest, key.pid, &key.secret);
    rest.extend(messages::ready_for_query(b'I'));
    output.extend_from_slice(&rest);
    presence.key = Some(key);
    let mut context = DecodeContext::default();
    (context.awaiting_frontend_ssl, context.awaiting_frontend_startup) = (false, false);
    let shared = Arc::clone(&presence.worker.shared);
    let _here = (access == Access::Admin).then(|| shared.orders.console(&shared));
    let input = BytesMut::from(sent.as_slice());
    let names = Names::default();
    let mut talk = Talk { seat, access, stream, handle, presence, input, output, context, names, skips: false };
    let Err(end) = talk.go_on().await else { return "client left" };
    let (words, last) = match end {
        End::Left => ("client left", None),
        End::Disconnected => ("disconnected", Some(("admin forced disconnect", SqlState::ADMIN_SHUTDOWN))),
        End::ShuttingDown => ("shutdown", Some(("pooler is shutting down", SqlState::ADMIN_SHUTDOWN))),
        End::Broken(text) => ("protocol violation", Some((text, SqlState::PROTOCOL_VIOLATION))),
    };
    if let Some((text, code)) = last {
        talk.put_error("FATAL", &Refused { text: text.to_owned(), code, hint: None });
        let goodbye = async {
            let _ = talk.send().await;
            talk.stream.close().await;
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), goodbye).await;
    }
    words
}

fn put(output: &mut BytesMut, message: &PgWireBackendMessage) {
    // what cannot be encoded is too long for any client; there is none of it here
    let _ = message.encode(output);
}

impl Talk {
    async fn go_on(&mut self) -> Result<(), End> {
        poll_fn(|cx| {
            self.handle.listen(cx);
            Poll::Ready(())
        })
        .await;
        loop {
            while let Some(message) = self.next_message()? {
                if matches!(message, PgWireFrontendMessage::Terminate(_)) {
                    return Ok(());
                }
                self.heed(message).await?;
                if self.output.len() > GATHERED_MAX {
                    self.send().await?;
                }
            }
            self.send().await?;
            self.read().await?;
        }
    }

    /// The next whole message that has come.
    fn next_message(&mut self) -> Result<Option<PgWireFrontendMessage>, End> {
        let total = match scan_header(&self.input).map_err(|_| End::Broken("bad packet"))? {
            Scan::Header { body_len, .. } => HEADER_LEN.saturating_add(usize::try_from(body_len).unwrap_or(usize::MAX)),
            Scan::More(_) => return Ok(None),
        };
        if total > FRAME_MAX {
            return Err(End::Broken("message is too long for the console"));
        }
        if self.input.len() < total {
            return Ok(None);
        }
        let mut frame = self.input.split_to(total);
        let decode = || PgWireFrontendMessage::decode(&mut frame, &self.context);
        match catch_unwind(AssertUnwindSafe(decode)) {
            Ok(Ok(Some(message))) if frame.is_empty() => Ok(Some(message)),
            _ => Err(End::Broken("bad packet")),
        }
    }

    /// Waits for more of the client, or for the end.
    async fn read(&mut self) -> Result<(), End> {
        let mut chunk = [0; 4_096];
        let read = poll_fn(|cx| {
            if self.handle.has(Signal::Now) || self.handle.has(Signal::Goodbye) {
                return Poll::Ready(Err(End::ShuttingDown));
            }
            if self.handle.has(Signal::Disconnect) {
                return Poll::Ready(Err(End::Disconnected));
            }
            self.handle.clear(Signal::Cancel); // there is nothing to cancel
            self.stream.poll_read(cx, &mut chunk).map_err(|_| End::Left)
        })
        .await?;
        if read == 0 {
            return Err(End::Left);
        }
        self.input.extend_from_slice(chunk.get(..read).unwrap_or_default());
        Ok(())
    }

    async fn send(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        let bytes = self.output.split();
        self.stream.write_all(&bytes).await.map_err(|_| End::Left)
    }

    async fn heed(&mut self, message: PgWireFrontendMessage) -> Result<(), End> {
        use PgWireFrontendMessage as From;
        if let From::Sync(_) = message {
            self.skips = false;
            self.names.forget_portals();
            self.put_ready();
            return Ok(());
        }
        if let From::Query(query) = message {
            self.skips = false;
            self.simple(&query.query).await?;
            self.put_ready();
            return Ok(());
        }
        if self.skips {
            return Ok(());
        }
        let outcome = match message {
            From::Parse(parse) => self.parse(parse),
            From::Bind(bind) => self.bind(&bind),
            From::Describe(describe) => self.describe(&describe),
            From::Execute(execute) => self.execute(&execute).await?,
            From::Close(close) => {
                self.names.close(close.target_type, close.name.as_deref().unwrap_or_default());
                self.put(&PgWireBackendMessage::CloseComplete(CloseComplete::new()));
                Ok(())
            }
            From::Flush(_) => {
                self.send().await?;
                Ok(())
            }
            // COPY messages outside a COPY are passed over, as in PostgreSQL
            From::CopyData(_) | From::CopyDone(_) | From::CopyFail(_) => Ok(()),
            _ => return Err(End::Broken("bad packet")),
        };
        if let Err(refused) = outcome {
            self.put_error("ERROR", &refused);
            self.skips = true;
        }
        Ok(())
    }

    /// A text with any number of statements; the first that fails is the last.
    async fn simple(&mut self, text: &str) -> Result<(), End> {
        let texts = statements(text);
        if texts.is_empty() {
            self.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()));
        }
        let lone = texts.len() < 2;
        for statement in texts {
            // PgBouncer's words quote the text as it came
            let done = match self.understand(if lone { text } else { statement }) {
                Ok(command) => self.carry_out(&command).await?,
                Err(refused) => Err(refused),
            };
            match done {
                Ok(Done::Table(table)) => {
                    self.put(&PgWireBackendMessage::RowDescription(description(table.columns, &Formats::default())));
                    self.put_rows(table.columns, &table.rows, &Formats::default()).await?;
                    self.put_tag("SHOW");
                }
                Ok(Done::Tag { tag, notice, detail }) => self.put_done(&tag, notice.as_deref(), detail),
                Err(refused) => {
                    self.put_error("ERROR", &refused);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn understand(&self, text: &str) -> Result<Command, Refused> {
        let command = parse(text, self.dialect())?;
        match &command {
            Command::Show { name, .. } if !show::is_known(name, self.dialect()) => {
                Err(ConsoleError::syntax(text).into())
            }
            _ => Ok(command),
        }
    }

    /// Does it, unless the client leaves or cancels first.
    async fn carry_out(&mut self, command: &Command) -> Result<Result<Done, Refused>, End> {
        self.seat.count_query();
        let shared = Arc::clone(&self.presence.worker.shared);
        let seat = Arc::clone(&self.seat);
        let dialect = self.dialect();
        let doing = seat.carry_out(&shared, dialect, self.access, command);
        let mut doing = std::pin::pin!(doing);
        let shuts_down = *command == Command::Shutdown(Shutdown::Immediate);
        self.handle.begin_hold();
        let done = poll_fn(|cx| {
            if let Poll::Ready(done) = doing.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            let ends = self.handle.has(Signal::Now) || shuts_down && self.handle.has(Signal::Goodbye);
            if ends {
                // PgBouncer says nothing to whoever told it to stop at once
                return Poll::Ready(Err(if shuts_down { End::Left } else { End::ShuttingDown }));
            }
            if self.handle.has(Signal::Disconnect) {
                return Poll::Ready(Err(End::Disconnected));
            }
            if self.handle.has(Signal::Cancel) {
                self.handle.clear(Signal::Cancel);
                let text = "canceling statement due to user request".to_owned();
                return Poll::Ready(Ok(Err(Refused { text, code: SqlState::QUERY_CANCELED, hint: None })));
            }
            // a console that is not there any more does not wait
            let mut chunk = [0; 4_096];
            while self.input.len() < FRAME_MAX {
                match self.stream.poll_read(cx, &mut chunk) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(read)) if read > 0 => {
                        self.input.extend_from_slice(chunk.get(..read).unwrap_or_default());
                    }
                    Poll::Ready(_) => return Poll::Ready(Err(End::Left)),
                }
            }
            Poll::Pending
        })
        .await;
        self.handle.not_working();
        done
    }

    fn parse(&mut self, message: Parse) -> Result<(), Refused> {
        let name = message.name.unwrap_or_default();
        let command = match statements(&message.query).as_slice() {
            [] => None,
            [_] => Some(self.understand(&message.query)?),
            _ => {
                let text = "cannot insert multiple commands into a prepared statement".to_owned();
                return Err(Refused { text, code: SqlState::SYNTAX_ERROR, hint: None });
            }
        };
        let columns = match &command {
            Some(Command::Show { name, .. }) => show::columns(name, self.dialect()),
            _ => None,
        };
        self.names.prepare(name, Prepared { command, columns })?;
        self.put(&PgWireBackendMessage::ParseComplete(ParseComplete::new()));
        Ok(())
    }

    fn bind(&mut self, message: &Bind) -> Result<(), Refused> {
        let violation = |text: String| Refused { text, code: SqlState::PROTOCOL_VIOLATION, hint: None };
        let name = message.statement_name.as_deref().unwrap_or_default();
        let prepared = self.names.prepared(name)?.clone();
        if !message.parameters.is_empty() {
            let given = message.parameters.len();
            let text =
                format!("bind message supplies {given} parameters, but prepared statement \"{name}\" requires 0");
            return Err(violation(text));
        }
        let columns = prepared.columns.unwrap_or_default();
        let Some(formats) = Formats::of(&message.result_column_format_codes, columns.len()) else {
            let (given, has) = (message.result_column_format_codes.len(), columns.len());
            return Err(violation(format!("bind message has {given} result formats but query has {has} columns")));
        };
        let portal = Portal { prepared, formats, left: None };
        self.names.bind(message.portal_name.clone().unwrap_or_default(), portal)?;
        self.put(&PgWireBackendMessage::BindComplete(BindComplete::new()));
        Ok(())
    }

    fn describe(&mut self, message: &Describe) -> Result<(), Refused> {
        let name = message.name.as_deref().unwrap_or_default();
        let (columns, formats) = match message.target_type {
            b'S' => {
                let columns = self.names.prepared(name)?.columns;
                self.put(&PgWireBackendMessage::ParameterDescription(ParameterDescription::new(Vec::new())));
                (columns, Formats::default())
            }
            _ => {
                let portal = self.names.portal(name)?;
                (portal.prepared.columns, portal.formats.clone())
            }
        };
        match columns {
            Some(columns) => self.put(&PgWireBackendMessage::RowDescription(description(columns, &formats))),
            None => self.put(&PgWireBackendMessage::NoData(NoData::new())),
        }
        Ok(())
    }

    async fn execute(&mut self, message: &Execute) -> Result<Result<(), Refused>, End> {
        let name = message.name.as_deref().unwrap_or_default();
        let (command, formats, left) = match self.names.portal(name) {
            Ok(portal) => (portal.prepared.command.clone(), portal.formats.clone(), portal.left.take()),
            Err(refused) => return Ok(Err(refused)),
        };
        let Some(command) = command else {
            self.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()));
            return Ok(Ok(()));
        };
        let mut table = match left {
            Some(left) => left,
            None => match self.carry_out(&command).await? {
                Ok(Done::Table(table)) => table,
                Ok(Done::Tag { tag, notice, detail }) => {
                    self.put_done(&tag, notice.as_deref(), detail);
                    return Ok(Ok(()));
                }
                Err(refused) => return Ok(Err(refused)),
            },
        };
        let max = usize::try_from(message.max_rows).ok().filter(|max| *max > 0).unwrap_or(usize::MAX);
        let rest = if table.rows.len() > max { table.rows.split_off(max) } else { Vec::new() };
        self.put_rows(table.columns, &table.rows, &formats).await?;
        if rest.is_empty() {
            self.put_tag("SHOW");
        } else {
            self.put(&PgWireBackendMessage::PortalSuspended(PortalSuspended::new()));
        }
        if let Ok(portal) = self.names.portal(name) {
            portal.left = Some(Table { columns: table.columns, rows: rest });
        }
        Ok(Ok(()))
    }

    fn dialect(&self) -> Dialect {
        seat::dialect(&self.presence.entry.facts.database)
    }

    fn put(&mut self, message: &PgWireBackendMessage) {
        put(&mut self.output, message);
    }

    async fn put_rows(&mut self, columns: &[Column], rows: &[Row], formats: &Formats) -> Result<(), End> {
        for row in rows {
            self.put(&PgWireBackendMessage::DataRow(data_row(columns, row, formats)));
            if self.output.len() > GATHERED_MAX {
                self.send().await?;
            }
        }
        Ok(())
    }

    fn put_tag(&mut self, tag: &str) {
        self.put(&PgWireBackendMessage::CommandComplete(CommandComplete::new(tag.to_owned())));
    }

    fn put_done(&mut self, tag: &str, notice: Option<&str>, detail: Option<&str>) {
        if let Some(notice) = notice {
            self.put_notice(notice, detail);
        }
        self.put_tag(tag);
    }

    fn put_ready(&mut self) {
        self.put(&PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(TransactionStatus::Idle)));
    }

    fn put_error(&mut self, severity: &str, refused: &Refused) {
        let text = |text: &str| text.replace('\0', "?");
        let code = String::from_utf8_lossy(refused.code.as_bytes()).into_owned();
        let mut fields = vec![(b'S', severity.to_owned()), (b'V', severity.to_owned()), (b'C', code)];
        fields.push((b'M', text(&refused.text)));
        fields.extend(refused.hint.as_deref().map(|hint| (b'H', text(hint))));
        self.put(&PgWireBackendMessage::ErrorResponse(ErrorResponse::new(fields)));
    }

    fn put_notice(&mut self, text: &str, detail: Option<&str>) {
        let severity = || "NOTICE".to_owned();
        let mut fields = vec![(b'S', severity()), (b'V', severity()), (b'C', "00000".to_owned())];
        fields.push((b'M', text.to_owned()));
        fields.extend(detail.map(|detail| (b'D', detail.to_owned())));
        self.put(&PgWireBackendMessage::NoticeResponse(NoticeResponse::new(fields)));
    }
}
