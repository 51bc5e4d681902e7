//! What passes between this plugin and its provider, as recorded.

#[test]
fn recorded_exchanges() {
    palisade_provider::testing::play_all::<schwab::Schwab>(concat!(env!("CARGO_MANIFEST_DIR"), "/exchanges"));
}
