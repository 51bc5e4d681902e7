//! The recorded exchanges of `builtin:oauth2`.

#[test]
fn recorded_exchanges() {
    palisade_provider::testing::play_all::<palisade_provider::oauth2::Generic>(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/exchanges"
    ));
}
