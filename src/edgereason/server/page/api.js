/**
 * Speaks with the server: what it is, an answer as a stream of frames, and "answer now".
 */

/**
 * @typedef {{
 *   name: string, version: string,
 *   model: {name: string, base: string, bundle: boolean, context_tokens: number},
 *   modes: string[], efforts: Record<string, {tokens: number | null}>, votes: string[],
 *   heads: {switcher: boolean, threshold: number | null, verifier: boolean},
 *   limits: {streams: number, budget_tokens?: number},
 *   needs_key: boolean,
 * }} Info
 * @typedef {any} Frame  an object with a `type`; `take` in conversation.js says what each brings
 */

/** The server refused, failed, or could not be reached (`status` 0). */
export class Refused extends Error {
  /** @param {string} message @param {number} status @param {string} [code] */
  constructor(message, status, code = '') {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const KEY = 'edgereason.key';

/** The key is kept for this tab alone, and goes with it. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  /** @param {string} value */
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** @returns {Promise<Info>} */
export async function info() {
  return (await request('/api/info')).json();
}

/**
 * Asks, and gives the frames as they come. Ends after `answered`; leaving it, or the signal, ends the request.
 * @param {object} body @param {AbortSignal} signal
 * @returns {AsyncGenerator<Frame>}
 */
export async function* chat(body, signal) {
  const response = await request('/api/chat', body, signal);
  // The decoder keeps the first bytes of a character whose last ones have not come yet.
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw signal.aborted ? error : new Refused('The connection to the server broke off.', 0);
    });
    if (done) throw new Refused('The server ended the connection before the answer was complete.', 0);
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data:')) continue; // a comment keeps the connection alive
      const frame = JSON.parse(line.slice(5));
      if (frame.type === 'error') throw new Refused(frame.message, 200, frame.code);
      yield frame;
      if (frame.type === 'answered') return void reader.cancel().catch(() => {});
    }
  }
}

/** @param {string} id of the request @returns {Promise<boolean>} false: it is over already */
export async function answerNow(id) {
  try {
    await request('/api/control', { id, action: 'answer_now' });
    return true;
  } catch (error) {
    if (error.status === 404) return false;
    throw error;
  }
}

/** @param {string} path @param {object} [body] sent as JSON @param {AbortSignal} [signal] */
async function request(path, body, signal) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (body) headers['Content-Type'] = 'application/json';
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const init = { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body), signal };
  const response = await fetch(path, init).catch((error) => {
    throw signal?.aborted ? error : new Refused('The server can’t be reached. Is `edgereason serve` running?', 0);
  });
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({ error: null }));
  const wait = Number(response.headers.get('Retry-After'));
  const advice = wait ? ` Try again in ${wait} s.` : '';
  throw new Refused((error?.message ?? `The server answered ${response.status}.`) + advice, response.status, error?.code);
}
