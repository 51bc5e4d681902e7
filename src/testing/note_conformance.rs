//! What every store's shared notes must pass.

use std::time::Duration;

use palisade_core::ports::{NoteKey, NoteKind, NotePut, SharedNotes};

const LIFE: Duration = Duration::from_secs(60);

fn key(kind: NoteKind, n: u8) -> NoteKey {
    NoteKey { kind, hash: [n; 32] }
}

fn put(key: NoteKey, before: Option<u64>, body: &str) -> NotePut {
    NotePut { key, before, body: body.as_bytes().to_vec(), life: LIFE }
}

async fn read(notes: &dyn SharedNotes, key: NoteKey) -> Option<(String, u64)> {
    let note = notes.notes(&[key]).await.unwrap().notes.into_iter().next().unwrap();
    note.map(|note| (String::from_utf8(note.body).unwrap(), note.revision))
}

async fn write(notes: &dyn SharedNotes, put: NotePut) -> bool {
    notes.put_notes(vec![put]).await.unwrap() == [true]
}

/// `advance` moves the clock by which notes end, which may run on by itself as well.
pub async fn notes(notes: &dyn SharedNotes, advance: impl AsyncFn(Duration)) {
    a_note_is_written_over_only_as_it_was_read(notes).await;
    a_note_is_taken_once(notes).await;
    a_note_ends_by_itself(notes, &advance).await;
}

async fn a_note_is_written_over_only_as_it_was_read(notes: &dyn SharedNotes) {
    let (one, other) = (key(NoteKind::Tries, 1), key(NoteKind::Pressure, 1));
    assert_eq!(read(notes, one).await, None);
    assert!(!write(notes, put(one, Some(7), "x")).await, "there is none");
    assert!(write(notes, put(one, None, "first")).await);
    assert!(!write(notes, put(one, None, "again")).await);
    let (body, revision) = read(notes, one).await.unwrap();
    assert_eq!(body, "first");
    let written = notes.put_notes(vec![put(one, Some(revision), "second"), put(other, Some(1), "x")]).await;
    assert_eq!(written.unwrap(), [true, false], "each for itself");
    assert!(!write(notes, put(one, Some(revision), "late")).await);
    let after = notes.notes(&[other, one]).await.unwrap().notes;
    assert!(after[0].is_none() && after[1].as_ref().unwrap().body == b"second", "in the order asked for");
    notes.remove_notes(&[one, other]).await.unwrap();
    assert_eq!(read(notes, one).await, None);
    assert!(write(notes, put(one, None, "third")).await);
    let (_, again) = read(notes, one).await.unwrap();
    assert!(again > revision, "a revision never comes again");
}

async fn a_note_is_taken_once(notes: &dyn SharedNotes) {
    let code = key(NoteKind::Carry, 2);
    assert!(write(notes, put(code, None, "code")).await);
    assert_eq!(notes.take_note(code).await.unwrap().as_deref(), Some(&b"code"[..]));
    assert_eq!(notes.take_note(code).await.unwrap(), None);
}

async fn a_note_ends_by_itself(notes: &dyn SharedNotes, advance: &impl AsyncFn(Duration)) {
    let (long, short) = (key(NoteKind::UsedLink, 3), key(NoteKind::UsedLink, 4));
    assert!(write(notes, NotePut { life: 3 * LIFE, ..put(long, None, "long") }).await);
    assert!(write(notes, put(short, None, "short")).await);
    let begun = notes.notes(&[]).await.unwrap().now;
    advance(LIFE).await;
    assert!(notes.notes(&[]).await.unwrap().now >= begun + LIFE);
    assert_eq!((read(notes, short).await, notes.take_note(short).await.unwrap()), (None, None));
    assert!(write(notes, put(short, None, "anew")).await, "what has ended is in no way");
    advance(LIFE).await;
    assert!(notes.trim_notes().await.unwrap() >= 1);
    assert!(read(notes, long).await.is_some());
}
