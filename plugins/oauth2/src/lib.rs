//! `builtin:oauth2`: any standard provider, by settings alone (docs/oauth2.md). All of it is in the SDK.

palisade_provider::register!(palisade_provider::oauth2::Generic);
