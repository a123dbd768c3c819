/**
 * Conversations as plain data: turns, the answers to each, and how frames of the server become an answer.
 *
 * Nothing here speaks to the server, the screen or the store.
 */

/**
 * @typedef {{
 *   mode?: string, effort?: string, budget?: number | string, streams?: number, vote?: string,
 *   temperature?: number, seed?: number, system?: string, max_tokens?: number,
 * }} Asked  what a request asks for, beside its messages
 *
 * @typedef {{
 *   thinking: string, text: string, tokens: number, thought: number | null, seconds: number | null,
 *   end: {answer: string, score: number | null, stop: string, tokens: number} | null,
 * }} Stream  `thought`: tokens when the answer began; `seconds`: when it ended
 *
 * @typedef {{
 *   id: string, asked: Asked,
 *   phase: 'sent' | 'queued' | 'reading' | 'thinking' | 'answering' | 'done' | 'stopped' | 'failed',
 *   place: number, reading: {done: number, total: number, cached: number} | null,
 *   routed: {route: 'chat' | 'think', p_think: number | null, threshold: number | null, prompt_tokens: number,
 *     streams: number, limit_tokens: number, limit_s: number | null} | null,
 *   streams: Stream[], tally: {standing: [string, number][], running: number} | null,
 *   notices: string[], text: string, result: Record<string, any> | null, error: string,
 *   began: number, first: number | null, ended: number | null, hurried: boolean, version: number,
 * }} Answer  times are milliseconds since 1970
 *
 * @typedef {{id: string, question: string, answers: Answer[], shown: number}} Turn
 * @typedef {{id: string, title: string, changed: number, turns: Turn[]}} Conversation
 */

const TITLE_LENGTH = 60;
const OVER = new Set(['done', 'stopped', 'failed']);

export const newId = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join('');

/** @returns {Conversation} */
export const newConversation = () => ({ id: newId(), title: '', changed: Date.now(), turns: [] });

/** @param {string} question @returns {Turn} */
export const newTurn = (question) => ({ id: newId(), question, answers: [], shown: 0 });

/** @param {Asked} asked @returns {Answer} */
export const newAnswer = (asked) => ({
  id: newId(),
  asked,
  phase: 'sent',
  place: 0,
  reading: null,
  routed: null,
  streams: [],
  tally: null,
  notices: [],
  text: '',
  result: null,
  error: '',
  began: Date.now(),
  first: null,
  ended: null,
  hurried: false,
  version: 0,
});

/** @param {string} question @returns {string} its first line, cut at a word */
export function titleOf(question) {
  const line = question.trim().split('\n', 1)[0];
  if (line.length <= TITLE_LENGTH) return line;
  return `${line.slice(0, line.lastIndexOf(' ', TITLE_LENGTH) + 1 || TITLE_LENGTH).trim()}…`;
}

/** @param {Turn} turn @returns {Answer | undefined} */
export const shownAnswer = (turn) => turn.answers[turn.shown];

/** @param {Answer} answer */
export const isOver = (answer) => OVER.has(answer.phase);

/**
 * What is sent to have a turn answered: the questions before it with the answers on the screen, and its own.
 * A question that was left without an answer is left out: two questions in a row confuse a small model.
 * @param {Conversation} conversation @param {Turn} turn
 */
export function messagesFor(conversation, turn) {
  const messages = [];
  for (const earlier of conversation.turns.slice(0, conversation.turns.indexOf(turn))) {
    const text = shownAnswer(earlier)?.text;
    if (text) messages.push({ role: 'user', content: earlier.question }, { role: 'assistant', content: text });
  }
  return [...messages, { role: 'user', content: turn.question }];
}

/**
 * What "think harder" asks: what was asked, with the options that the server raises.
 * @param {Answer} answer @returns {Asked | null} null at the top, or where the server has not said
 */
export function harderThan(answer) {
  const raised = answer.result?.harder?.options;
  if (!raised) return null;
  const { effort, budget, max_tokens: _, ...kept } = answer.asked;
  const limit = raised.effort || raised.budget ? {} : effort ? { effort } : budget ? { budget } : {};
  return Object.fromEntries(
    Object.entries({ ...kept, ...limit, mode: 'think', ...raised }).filter(([, value]) => value != null),
  );
}

/** Tokens of the prompt that had to be encoded for this answer; null while that is not known. @param {Answer} answer */
export function encodedTokens(answer) {
  const usage = answer.result?.usage;
  return usage?.prompt == null ? null : usage.prompt - (usage.cached ?? 0);
}

/** Tokens of all streams so far. @param {Answer} answer */
export const spentTokens = (answer) => answer.streams.reduce((sum, stream) => sum + stream.tokens, 0);

/** Seconds since the request began, or until it ended. @param {Answer} answer */
export const seconds = (answer) => ((answer.ended ?? Date.now()) - answer.began) / 1000;

/**
 * How much of its budget a stream has used, in tokens or in seconds, whichever is nearer to its end.
 * @param {Answer} answer @param {Stream} stream @returns {number} 0 to 1
 */
export function used(answer, stream) {
  const { limit_tokens, limit_s } = answer.routed;
  const parts = [limit_tokens ? stream.tokens / limit_tokens : 0];
  if (limit_s) parts.push((stream.seconds ?? seconds(answer)) / limit_s);
  return Math.min(1, Math.max(...parts));
}

/**
 * Takes in one frame.
 * @param {Answer} answer @param {import('./api.js').Frame} frame
 */
export function take(answer, frame) {
  answer.version += 1;
  switch (frame.type) {
    case 'accepted':
      if (frame.id) answer.id = frame.id;
      break;
    case 'queued':
      answer.phase = 'queued';
      answer.place = frame.place;
      break;
    case 'reading':
      answer.phase = 'reading';
      answer.reading = frame;
      break;
    case 'routed':
      answer.phase = frame.route === 'think' ? 'thinking' : 'answering';
      answer.routed = frame;
      answer.streams = Array.from({ length: frame.streams }, newStream);
      break;
    case 'texts':
      answer.first ??= Date.now();
      for (const item of frame.items) takeText(answer, item);
      break;
    case 'ended': {
      const stream = answer.streams[frame.stream];
      stream.end = frame;
      stream.tokens = frame.tokens;
      stream.seconds = seconds(answer);
      break;
    }
    case 'tally':
      answer.tally = frame;
      break;
    case 'notice':
      answer.notices.push(frame.text);
      break;
    case 'answered':
      answer.result = frame;
      answer.text = frame.text;
      end(answer, 'done');
  }
}

/** @returns {Stream} */
const newStream = () => ({ thinking: '', text: '', tokens: 0, thought: null, seconds: null, end: null });

/** @param {Answer} answer @param {{stream: number, phase: string, text: string, tokens: number}} item */
function takeText(answer, item) {
  const stream = answer.streams[item.stream];
  if (item.phase === 'answer') {
    stream.thought ??= stream.tokens;
    stream.text += item.text;
    // One stream can't be outvoted: what it says is the answer, as it says it.
    if (answer.streams.length === 1) {
      answer.text = stream.text;
      answer.phase = 'answering';
    }
  } else stream.thinking += item.text;
  stream.tokens = item.tokens;
}

/** @param {Answer} answer @param {'done' | 'stopped' | 'failed'} phase @param {string} [error] */
export function end(answer, phase, error = '') {
  answer.phase = phase;
  answer.error = error;
  answer.ended = Date.now();
  answer.version += 1;
}

/** @param {Conversation} conversation @returns {string} for people: questions, answers, and how they came about */
export function asMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  for (const turn of conversation.turns) {
    const answer = shownAnswer(turn);
    parts.push(`## ${turn.question.trim()}`);
    if (!answer) continue;
    for (const stream of answer.streams) {
      if (stream.thinking) parts.push(`<details><summary>Thinking</summary>\n\n${stream.thinking.trim()}\n\n</details>`);
    }
    parts.push(answer.text || `*${answer.error || 'No answer.'}*`);
  }
  return `${parts.join('\n\n')}\n`;
}
