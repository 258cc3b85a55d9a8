// How a question may end but by its answer.

import { toast } from "/static/dom.js";

/** What is refused, with what the user is to be told; `kind` is "error", or "gone" where it wants an image again. */
export class Refused extends Error {
  constructor(message, kind = "error") {
    super(message);
    this.kind = kind;
  }
}

/** What a question ends with whose place a newer one took, or that the socket was lost under. */
export class Dropped extends Error {}

/** For a promise whose failure the user is to see; what was dropped is nobody's failure. */
export const tell = (promise) => promise.catch((error) => {
  if (error instanceof Dropped) return null;
  toast(error instanceof Refused ? error.message : `the page failed: ${error.message}`, "error");
  if (!(error instanceof Refused)) console.error(error);
  return null;
});
