use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::end_to_end::VerificationCode;
use crate::session::event::MessageId;

fn info(id: u64, name: &str, state: ContactState) -> ContactInfo {
    let code = (state == ContactState::Connected).then_some(VerificationCode([7; 32]));
    ContactInfo {
        id: ContactId(id),
        name: name.to_owned(),
        state,
        sent: 0,
        delivered: 0,
        received: 0,
        code,
        disappears: None,
    }
}

fn screen() -> Screen {
    let contacts = vec![info(1, "ada", ContactState::Connected), info(2, "bob", ContactState::Invited)];
    Screen::new(contacts, None, "fast".to_owned())
}

fn picture(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let rows = buffer.content.chunks(usize::from(width));
    rows.map(|row| row.iter().map(|c| c.symbol()).collect::<String>() + "\n").collect()
}

fn press(screen: &mut Screen, code: KeyCode) -> Wish {
    screen.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn control(screen: &mut Screen, c: char) -> Wish {
    screen.key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL))
}

fn write(screen: &mut Screen, text: &str) -> Wish {
    text.chars().for_each(|c| assert_eq!(press(screen, KeyCode::Char(c)), Wish::Nothing));
    press(screen, KeyCode::Enter)
}

#[test]
fn a_message_is_seen_with_its_state_at_80_by_24() {
    let mut screen = screen();
    let ada = ContactId(1);
    assert_eq!(write(&mut screen, "hello"), Wish::Send(ada, "hello".to_owned()));
    screen.sent(ada, "hello".to_owned(), Ok(1));
    let state = |state| ClientEvent::State { contact: ada, message: MessageId(1), state };
    for (event, seen) in [
        (ClientEvent::Ready, "> hello  …"),
        (state(MessageState::Stored { k: 1, n: 2 }), "> hello  ✓ 1 of 2"),
        (state(MessageState::Delivered), "> hello  ✓✓"),
    ] {
        assert!(!screen.event(&event));
        let picture = picture(&screen, 80, 24);
        assert!(picture.contains(seen), "{picture}");
    }
    screen.event(&ClientEvent::Message { contact: ada, number: 1, body: b"good \x1b[2Jday".to_vec() });
    let seen = picture(&screen, 80, 24);
    for part in ["Posta · fast · online", "│ada", "bob (invited)", "To ada", "< good \u{fffd}[2Jday", "Ctrl-N"] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
}

#[test]
fn what_was_said_before_is_there_and_nothing_is_shown_twice() {
    let mut screen = screen();
    let said = |ours, number, delivered, body: &str| Said {
        ours,
        number,
        at: posta_protocol::now::Wall(number),
        delivered,
        body: body.as_bytes().to_vec(),
    };
    let ada = ContactId(1);
    screen.recall(ada, vec![said(true, 1, true, "one"), said(false, 1, true, "two"), said(true, 2, false, "three")]);
    screen.event(&ClientEvent::Message { contact: ada, number: 1, body: b"two".to_vec() });
    let seen = picture(&screen, 80, 24);
    for part in ["> one  ✓✓", "< two", "> three  …"] {
        assert_eq!(seen.matches(part).count(), 1, "{part}: {seen}");
    }
    screen.event(&ClientEvent::State { contact: ada, message: MessageId(2), state: MessageState::Delivered });
    assert!(picture(&screen, 80, 24).contains("> three  ✓✓"));
    screen.event(&ClientEvent::Disappeared { contact: ada, ours: true, number: 1 });
    let seen = picture(&screen, 80, 24);
    assert!(!seen.contains("> one") && seen.contains("< two"), "{seen}");
}

#[test]
fn a_message_from_someone_else_is_counted_until_it_is_read() {
    let mut screen = Screen::new(vec![info(1, "ada", ContactState::Connected); 1], None, "fast".to_owned());
    screen.renew(vec![info(1, "ada", ContactState::Connected), info(2, "bob", ContactState::Connected)]);
    screen.event(&ClientEvent::Message { contact: ContactId(2), number: 1, body: b"psst".to_vec() });
    let seen = picture(&screen, 80, 24);
    assert!(seen.contains("1 unread") && seen.contains("bob 1") && !seen.contains("psst"), "{seen}");
    press(&mut screen, KeyCode::Tab);
    let seen = picture(&screen, 80, 24);
    assert!(seen.contains("0 unread") && seen.contains("< psst"), "{seen}");
}

#[test]
fn an_invitation_and_its_code_fill_80_by_24() {
    let mut screen = screen();
    control(&mut screen, 'n');
    assert_eq!(write(&mut screen, "cleo"), Wish::Invite("cleo".to_owned()));
    // Nothing else meanwhile.
    control(&mut screen, 'o');
    assert_eq!(screen.mode, Mode::Waiting);
    let link = format!("posta:p1{}", "q".repeat(85));
    screen.invited(Ok(link.clone()));
    let seen = picture(&screen, 80, 24);
    assert!(seen.contains("posta:p1qqq") && seen.contains("██") && seen.contains("Enter"), "{seen}");
    let small = picture(&screen, 80, 20);
    assert!(small.contains("posta:p1qqq") && !small.contains("██"), "part of a code is none: {small}");
    press(&mut screen, KeyCode::Enter);
    assert_eq!(screen.mode, Mode::Talk);
}

#[test]
fn a_link_that_is_none_is_refused_before_anything_is_asked_for() {
    let mut screen = screen();
    control(&mut screen, 'o');
    assert_eq!(write(&mut screen, "https://example.org"), Wish::Nothing);
    assert_eq!(screen.mode, Mode::Joining);
    assert!(!screen.notice.is_empty());
    press(&mut screen, KeyCode::Esc);
    assert_eq!(screen.mode, Mode::Talk);
}

#[test]
fn who_is_not_connected_yet_is_written_nothing() {
    let mut screen = screen();
    press(&mut screen, KeyCode::Down);
    assert_eq!(write(&mut screen, "too soon"), Wish::Nothing);
    assert!(screen.notice.contains("invited"), "{}", screen.notice);
    // Nor is anything lost that was written.
    assert_eq!(screen.input, "too soon");
}

#[test]
fn any_size_and_any_text_can_be_drawn() {
    let mut screen = screen();
    for (number, text) in (1..).zip(["", "日本語のとても長い文", &"x".repeat(5000), "e\u{301}\u{200b}"]) {
        screen.event(&ClientEvent::Message { contact: ContactId(1), number, body: text.as_bytes().to_vec() });
        screen.input = text.to_owned();
        for (width, height) in [(1, 1), (2, 5), (20, 8), (80, 24), (250, 70)] {
            picture(&screen, width, height);
        }
    }
    for scroll in [1, 7, 10_000] {
        screen.scroll = scroll;
        picture(&screen, 80, 24);
    }
    control(&mut screen, 't');
    assert!(picture(&screen, 80, 24).contains("Compare"));
}

#[test]
fn the_newest_line_is_at_the_bottom_and_page_up_goes_back() {
    let mut screen = screen();
    for n in 0..40 {
        screen.event(&ClientEvent::Message { contact: ContactId(1), number: n, body: format!("line {n}.").into() });
    }
    let seen = picture(&screen, 80, 24);
    assert!(seen.contains("line 39.") && !seen.contains("line 10."), "{seen}");
    for _ in 0..5 {
        press(&mut screen, KeyCode::PageUp);
    }
    let seen = picture(&screen, 80, 24);
    assert!(!seen.contains("line 39.") && seen.contains("line 10."), "{seen}");
}
