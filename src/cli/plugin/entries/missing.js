// A plugin has one door to the network. `fetch` would end the call without a word; this ends it with one, whether
// or not the plugin catches what is thrown: it is both an error and a failure of wit/provider.wit.
globalThis.fetch = () => {
  const val = 'there is no `fetch` in a plugin: use http.send (import { send } from "palisade:provider/http@0.1.0")';
  throw Object.assign(new TypeError(val), { tag: "misconfigured", val });
};
