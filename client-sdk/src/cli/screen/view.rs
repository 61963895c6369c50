//! Draws the screen. It is made for 80 columns and 24 lines and takes what there is.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line as Row, Text};
use ratatui::widgets::{Block, Clear, List, ListItem, ListState, Paragraph, Wrap};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::super::qr::Code;
use super::super::show::state_name;
use super::{Entry, Line, Mode, Screen};
use crate::session::event::{ContactState, HealthLevel, MessageState};

/// Columns of the list of contacts.
const LIST: u16 = 22;
const KEYS: &str = "Tab next · Ctrl-N invite · Ctrl-O open a link · Ctrl-T code · PgUp · Ctrl-C end";

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

impl Screen {
    /// Draws everything.
    pub(in crate::cli) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, middle, input, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(3), Constraint::Length(3), Constraint::Length(1)])
                .areas(frame.area());
        let [list, talk] = Layout::horizontal([Constraint::Length(LIST), Constraint::Min(10)]).areas(middle);
        self.draw_head(frame, head);
        self.draw_list(frame, list);
        self.draw_talk(frame, talk);
        self.draw_input(frame, input);
        let last = if self.notice.is_empty() { KEYS } else { &self.notice };
        frame.render_widget(Paragraph::new(last).style(if self.notice.is_empty() { DIM } else { BOLD }), foot);
        match &self.mode {
            // All of the screen: the code needs it.
            Mode::Invitation(link) => draw_invitation(frame, frame.area(), link),
            Mode::Code => self.draw_code(frame, middle),
            _ => {}
        }
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let health = match self.online {
            None => "looking for a relay",
            Some(true) => "online",
            Some(false) => "no relay answers",
        };
        let unread: usize = self.contacts.iter().map(|e| e.unread).sum();
        let lately = match self.health {
            HealthLevel::Unknown => String::new(),
            level => format!(", {level}"),
        };
        let text = format!(" Posta · {} · {health}{lately} · {unread} unread", self.profile);
        frame.render_widget(Paragraph::new(text).style(REVERSED), area);
    }

    fn draw_list(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.contacts.iter().map(|entry| {
            let state = match entry.info.state {
                ContactState::Connected if entry.unread > 0 => format!(" {}", entry.unread),
                ContactState::Connected => String::new(),
                state => format!(" ({})", state_name(state)),
            };
            let room = usize::from(area.width.saturating_sub(3)).saturating_sub(state.width());
            ListItem::new(format!("{}{state}", cut(&entry.name(), room)))
        });
        let list = List::new(rows).block(Block::bordered().title("Contacts")).highlight_style(REVERSED);
        let mut state = ListState::default().with_selected(Some(self.selected));
        frame.render_stateful_widget(list, area, &mut state);
    }

    fn draw_talk(&self, frame: &mut Frame<'_>, area: Rect) {
        let Some(entry) = self.current() else {
            let text = "Nobody yet.\n\nCtrl-N makes an invitation: a link for one person.\n\
                        Ctrl-O follows a link that you were given.";
            frame.render_widget(Paragraph::new(text).block(Block::bordered()).wrap(Wrap { trim: false }), area);
            return;
        };
        let block = Block::bordered().title(entry.name());
        let inside = block.inner(area);
        let rows = self.rows(entry, usize::from(inside.width));
        let height = usize::from(inside.height);
        let end = rows.len().saturating_sub(self.scroll).max(height.min(rows.len()));
        let seen: Vec<Row<'_>> = rows.into_iter().take(end).skip(end.saturating_sub(height)).collect();
        frame.render_widget(Paragraph::new(seen).block(block), area);
    }

    /// All lines of a conversation, as wide as there is room.
    fn rows(&self, entry: &Entry, width: usize) -> Vec<Row<'static>> {
        let mut rows = Vec::new();
        for line in &entry.lines {
            let (text, style) = match line {
                Line::Mine { text, state, .. } => (format!("> {text}  {}", mark(*state)), Style::new()),
                Line::Theirs { text, .. } => (format!("< {text}"), BOLD),
                Line::Note(text) => (format!("  {text}"), DIM),
            };
            rows.extend(wrapped(&text, width).into_iter().map(|part| Row::styled(part, style)));
        }
        rows
    }

    fn draw_input(&self, frame: &mut Frame<'_>, area: Rect) {
        let title = match &self.mode {
            Mode::Talk => self.current().map_or_else(String::new, |e| format!("To {}", e.name())),
            Mode::Inviting => "Invite: what do you call this contact? (nobody else learns it)".to_owned(),
            Mode::Waiting => "Two relays are asked to hold the invitation ...".to_owned(),
            Mode::Invitation(_) | Mode::Code => String::new(),
            Mode::Joining => "Paste the link that you were given".to_owned(),
            Mode::Naming(_) => "What do you call this contact? (nobody else learns it)".to_owned(),
        };
        let block = Block::bordered().title(title);
        let inside = block.inner(area);
        let shown = end_of(&self.input, usize::from(inside.width).saturating_sub(1));
        let column = u16::try_from(shown.width()).unwrap_or(0);
        frame.render_widget(Paragraph::new(shown).block(block), area);
        frame.set_cursor_position((inside.x + column, inside.y));
    }

    fn draw_code(&self, frame: &mut Frame<'_>, area: Rect) {
        let code = self.current().and_then(|e| e.info.code);
        let text = code.map_or_else(
            || "There is no code before both of you have joined.".to_owned(),
            |code| {
                format!(
                    "{code}\n\nCompare it with what the other one sees, by phone or in the same room: over a way that \
                     nobody can forge. If both are the same, nobody sits between you."
                )
            },
        );
        draw_over(frame, area, " Code ", Text::from(text));
    }
}

fn draw_invitation(frame: &mut Frame<'_>, area: Rect, link: &str) {
    let width = usize::from(area.width.saturating_sub(2));
    let mut text = Text::from("For one person, once, for 24 hours: whoever has it first becomes the contact.");
    wrapped(link, width).into_iter().for_each(|part| text.push_line(part));
    // Only if all of it can be seen: a part of a code is none.
    if let Some(code) = Code::of(link) {
        let lines = code.lines();
        if text.height() + lines.len() + 2 <= usize::from(area.height) {
            lines.into_iter().for_each(|line| text.push_line(Row::from(line).centered()));
        }
    }
    draw_over(frame, area, " Invitation ", text);
}

fn draw_over(frame: &mut Frame<'_>, area: Rect, title: &'static str, text: Text<'_>) {
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(title).title_bottom(" Enter or Esc goes back ");
    frame.render_widget(Paragraph::new(text).block(block).wrap(Wrap { trim: false }), area);
}

/// How far a message has come.
fn mark(state: MessageState) -> String {
    match state {
        MessageState::Queued => "…".to_owned(),
        MessageState::Stored { k, n } => format!("✓ {k} of {n}"),
        MessageState::Delivered => "✓✓".to_owned(),
        MessageState::Failed { reason } => format!("✗ {reason}"),
    }
}

/// Lines of at most so many columns.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut column = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if column + wide > width.max(1) {
            // A word goes to the next line as a whole, if it isn't longer than half of one.
            let last = lines.last_mut().map(|line| {
                let word = line.rfind(' ').map_or(line.len(), |space| space + 1);
                if line.get(word..).is_some_and(|w| w.width() <= width / 2) {
                    line.split_off(word)
                } else {
                    String::new()
                }
            });
            let word = last.unwrap_or_default();
            column = word.width();
            lines.push(word);
        }
        column += wide;
        if let Some(line) = lines.last_mut() {
            line.push(c);
        }
    }
    lines
}

/// The beginning of a text, as far as there is room.
fn cut(text: &str, room: usize) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let first = wrapped(text, room.saturating_sub(1)).into_iter().next().unwrap_or_default();
    format!("{first}…")
}

/// The end of a text, as far as there is room.
fn end_of(text: &str, room: usize) -> String {
    let mut left = room;
    let fits = |c: &char| {
        let wide = c.width().unwrap_or(0);
        let fits = wide <= left;
        left = left.saturating_sub(wide);
        fits
    };
    let mut end: Vec<char> = text.chars().rev().take_while(fits).collect();
    end.reverse();
    end.into_iter().collect()
}
