//! What `wit/provider.wit` looks like in Rust, made by the compiler, and how secrets in it are wiped.

// Generated code keeps to its maker's style.
#![allow(clippy::all, clippy::pedantic, missing_docs)]

use zeroize::Zeroize;

wasmtime::component::bindgen!({
    path: "wit",
    world: "provider",
    imports: {
        "palisade:provider/http@0.1.0.send": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});

use self::palisade::provider::types;

impl Zeroize for types::Connection {
    fn zeroize(&mut self) {
        self.kept.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

impl Zeroize for types::CurrentTokens {
    fn zeroize(&mut self) {
        self.access_token.zeroize();
        self.refresh_token.zeroize();
        self.id_token.zeroize();
    }
}

impl Zeroize for types::Pkce {
    fn zeroize(&mut self) {
        self.verifier.zeroize();
    }
}
