//! A conversation at the console: what the client asks, and the answers, until either side has enough.
//!
//! The loop is ours, because pgwire's handlers end each tag with the number of rows, which PgBouncer does not.
//!
//! Not here: messages as bytes (`line`), what is asked (`command`), what is shown (`show`).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::EmptyQueryResponse;
use pgwire::messages::startup::ParameterStatus;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};

use super::answer::{Done, Encoded, Formats, description};
use super::command::{Command, Dialect, Shutdown, parse};
use super::divide::statements;
use super::line::{End, Goodbye, Line, Said, put};
use super::names::{Names, Portal, Prepared};
use super::refusal::ConsoleError;
use super::seat::{self, Access, Seat};
use super::show;
use crate::protocol::messages;
use crate::proxy::client::Signal;
use crate::proxy::door::Caller;
use crate::proxy::error::ClientError;
use crate::proxy::handshake::Presence;

/// A conversation.
struct Talk {
    seat: Arc<Seat>,
    access: Access,
    presence: Presence,
    line: Line,
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
    let shared = Arc::clone(&presence.worker.shared);
    let _here = (access == Access::Admin).then(|| shared.orders.console(&shared));
    let line = Line::new(stream, handle, &sent, output);
    let mut talk = Talk { seat, access, presence, line, names: Names::default(), skips: false };
    let Err(end) = talk.go_on().await else { return "client left" };
    talk.line.put_end(&end);
    let words = match end {
        End::Left => return "client left",
        End::Told(ClientError::Disconnected) => "disconnected",
        End::Told(ClientError::SlowReader) => "does not take its answers",
        End::Told(_) => "shutdown",
        End::Broken(_) => "protocol violation",
    };
    talk.line.close().await;
    words
}

impl Talk {
    async fn go_on(&mut self) -> Result<(), End> {
        poll_fn(|cx| {
            self.line.handle.listen(cx);
            Poll::Ready(())
        })
        .await;
        loop {
            while let Some(said) = self.line.next()? {
                match said {
                    Said::Message(PgWireFrontendMessage::Terminate(_)) => return Ok(()),
                    Said::Message(message) => self.heed(message).await?,
                    Said::NoText { whole } => {
                        if whole || !self.skips {
                            self.line.put_error(&ConsoleError::NotUtf8);
                        }
                        self.skips = !whole;
                        if whole {
                            self.line.put_ready();
                        }
                    }
                }
                if self.line.is_full() {
                    self.line.send().await?;
                }
            }
            self.line.send().await?;
            self.line.read().await?;
        }
    }

    async fn heed(&mut self, message: PgWireFrontendMessage) -> Result<(), End> {
        use PgWireFrontendMessage as From;
        if let From::Sync(_) = message {
            self.skips = false;
            self.names.forget_portals();
            self.line.put_ready();
            return Ok(());
        }
        if let From::Query(query) = message {
            self.skips = false;
            self.simple(&query.query).await?;
            self.line.put_ready();
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
                self.line.put(&PgWireBackendMessage::CloseComplete(CloseComplete::new()));
                Ok(())
            }
            From::Flush(_) => {
                self.line.send().await?;
                Ok(())
            }
            // COPY messages outside a COPY are passed over, as in PostgreSQL
            From::CopyData(_) | From::CopyDone(_) | From::CopyFail(_) => Ok(()),
            _ => return Err(End::Broken(ConsoleError::BadPacket)),
        };
        if let Err(refused) = outcome {
            self.line.put_error(&refused);
            self.skips = true;
        }
        Ok(())
    }

    /// A text with any number of statements; the first that fails is the last.
    async fn simple(&mut self, text: &str) -> Result<(), End> {
        let texts = statements(text);
        if texts.is_empty() {
            self.line.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()));
        }
        let lone = texts.len() < 2;
        let formats = Formats::default();
        for statement in texts {
            // PgBouncer's words quote the text as it came
            let done = match self.understand(if lone { text } else { statement }) {
                Ok(command) => self.carry_out(&command, &formats).await?,
                Err(refused) => Err(refused),
            };
            match done {
                Ok(Done::Rows(mut rows)) => {
                    self.line.put(&PgWireBackendMessage::RowDescription(description(rows.columns, &formats)));
                    self.line.send_lines(rows.take(usize::MAX)).await?;
                    self.line.put_tag("SHOW");
                }
                Ok(Done::Tag { tag, notice, detail }) => self.put_done(&tag, notice.as_deref(), detail),
                Err(refused) => {
                    self.line.put_error(&refused);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn understand(&self, text: &str) -> Result<Command, ConsoleError> {
        let command = parse(text, self.dialect())?;
        match &command {
            Command::Show { name, .. } if !show::is_known(name, self.dialect()) => Err(ConsoleError::syntax(text)),
            _ => Ok(command),
        }
    }

    /// Does it, unless the client leaves or cancels first.
    async fn carry_out(&mut self, command: &Command, formats: &Formats) -> Result<Result<Done, ConsoleError>, End> {
        self.seat.count_query();
        let shared = Arc::clone(&self.presence.worker.shared);
        let seat = Arc::clone(&self.seat);
        let doing = seat.carry_out(&shared, self.dialect(), self.access, (command, formats));
        let mut doing = std::pin::pin!(doing);
        let shuts_down = *command == Command::Shutdown(Shutdown::Immediate);
        let goodbye = if shuts_down { Goodbye::Now } else { Goodbye::Later };
        self.line.handle.begin_hold();
        let done = poll_fn(|cx| {
            if let Poll::Ready(done) = doing.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if self.line.handle.has(Signal::Cancel) {
                self.line.handle.clear(Signal::Cancel);
                return Poll::Ready(Ok(Err(ConsoleError::Canceled)));
            }
            match self.line.poll_watch(cx, goodbye) {
                // PgBouncer says nothing to whoever told it to stop at once
                Poll::Ready(End::Told(ClientError::ShuttingDown)) if shuts_down => Poll::Ready(Err(End::Left)),
                Poll::Ready(end) => Poll::Ready(Err(end)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        self.line.handle.not_working();
        done
    }

    fn parse(&mut self, message: Parse) -> Result<(), ConsoleError> {
        let name = message.name.unwrap_or_default();
        let command = match statements(&message.query).as_slice() {
            [] => None,
            [_] => Some(self.understand(&message.query)?),
            _ => return Err(ConsoleError::ManyCommands),
        };
        let columns = match &command {
            Some(Command::Show { name, .. }) => show::columns(name, self.dialect()),
            _ => None,
        };
        self.names.prepare(name, Prepared { command, columns })?;
        self.line.put(&PgWireBackendMessage::ParseComplete(ParseComplete::new()));
        Ok(())
    }

    fn bind(&mut self, message: &Bind) -> Result<(), ConsoleError> {
        let name = message.statement_name.as_deref().unwrap_or_default();
        let prepared = self.names.prepared(name)?.clone();
        if !message.parameters.is_empty() {
            return Err(ConsoleError::Parameters { given: message.parameters.len(), name: name.to_owned() });
        }
        let (given, has) = (message.result_column_format_codes.len(), prepared.columns.unwrap_or_default().len());
        let formats = Formats::of(&message.result_column_format_codes, has);
        let formats = formats.ok_or(ConsoleError::ResultFormats { given, has })?;
        let portal = Portal { prepared, formats, left: None };
        self.names.bind(message.portal_name.clone().unwrap_or_default(), portal)?;
        self.line.put(&PgWireBackendMessage::BindComplete(BindComplete::new()));
        Ok(())
    }

    fn describe(&mut self, message: &Describe) -> Result<(), ConsoleError> {
        let name = message.name.as_deref().unwrap_or_default();
        let (columns, formats) = match message.target_type {
            b'S' => {
                let columns = self.names.prepared(name)?.columns;
                self.line.put(&PgWireBackendMessage::ParameterDescription(ParameterDescription::new(Vec::new())));
                (columns, Formats::default())
            }
            _ => {
                let portal = self.names.portal(name)?;
                (portal.prepared.columns, portal.formats.clone())
            }
        };
        match columns {
            Some(columns) => self.line.put(&PgWireBackendMessage::RowDescription(description(columns, &formats))),
            None => self.line.put(&PgWireBackendMessage::NoData(NoData::new())),
        }
        Ok(())
    }

    async fn execute(&mut self, message: &Execute) -> Result<Result<(), ConsoleError>, End> {
        let name = message.name.as_deref().unwrap_or_default();
        let (command, formats, left) = match self.names.portal(name) {
            Ok(portal) => (portal.prepared.command.clone(), portal.formats.clone(), portal.left.take()),
            Err(refused) => return Ok(Err(refused)),
        };
        let Some(command) = command else {
            self.line.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()));
            return Ok(Ok(()));
        };
        let mut rows = match left {
            Some(left) => left,
            None => match self.carry_out(&command, &formats).await? {
                Ok(Done::Rows(rows)) => rows,
                Ok(Done::Tag { tag, notice, detail }) => {
                    self.put_done(&tag, notice.as_deref(), detail);
                    return Ok(Ok(()));
                }
                Err(refused) => return Ok(Err(refused)),
            },
        };
        let max = usize::try_from(message.max_rows).ok().filter(|max| *max > 0).unwrap_or(usize::MAX);
        self.line.send_lines(rows.take(max)).await?;
        if rows.is_empty() {
            self.line.put_tag("SHOW");
        } else if let Err(refused) = self.keep(name, &mut rows) {
            return Ok(Err(refused));
        } else {
            self.line.put(&PgWireBackendMessage::PortalSuspended(PortalSuspended::new()));
        }
        if let Ok(portal) = self.names.portal(name) {
            portal.left = Some(rows);
        }
        Ok(Ok(()))
    }

    /// What a portal keeps for later takes room, however small: there may be many.
    fn keep(&self, portal: &str, rows: &mut Encoded) -> Result<(), ConsoleError> {
        if rows.room.is_none() {
            let room = self.seat.room(rows.len());
            let (client, bytes) = (self.line.handle.id, rows.len());
            rows.room = Some(room.inspect_err(|_| tracing::info!(client, portal, bytes, "no room for what is left"))?);
        }
        Ok(())
    }

    fn dialect(&self) -> Dialect {
        seat::dialect(&self.presence.entry.facts.database)
    }

    fn put_done(&mut self, tag: &str, notice: Option<&str>, detail: Option<&str>) {
        if let Some(notice) = notice {
            self.line.put_notice(notice, detail);
        }
        self.line.put_tag(tag);
    }
}
