// What `palisade plugin build` makes the component of: plugin.js, behind what says why something is missing.
import "./missing.js";
export * from "../plugin.js";
