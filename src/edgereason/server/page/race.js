/**
 * Streams side by side: what each says, how much of its budget it has used, how the vote stands.
 */
import { Component } from './vendor/preact.js';
import { useLayoutEffect, useRef, useState } from './vendor/hooks.js';
import { isOver, seconds, spentTokens, used } from './conversation.js';
import { Route } from './dial.js';
import { count, duration, html, Icon, plural } from './ui.js';

/**
 * @typedef {import('./conversation.js').Answer} Answer
 * @typedef {import('./conversation.js').Stream} Stream
 */

/** Characters of a lane's text: more than fit. Only these are laid out with each frame. */
const TAIL = 160;

/** @param {{answer: Answer, isLast: boolean}} properties */
export function Race({ answer, isLast }) {
  const [chosen, setOpen] = useState(/** @type {boolean | null} */ (null));
  const [lane, setLane] = useState(/** @type {number | null} */ (null));
  const isOpen = chosen ?? (isLast || !isOver(answer));
  const alone = answer.streams.length === 1;
  // A single stream's thinking is open while it thinks; of several, one at a time is opened by hand.
  const shown = lane ?? (alone && !isOver(answer) ? 0 : -1);
  return html`<div class="race" role="group" aria-label="Thinking">
    <header>
      <${Route} routed=${answer.routed} />
      <${Progress} answer=${answer} />
      <button type="button" class="button quiet bare fold" aria-expanded=${isOpen} aria-label="Thinking of the streams" onClick=${() => setOpen(!isOpen)}><${Icon} name="chevron" /></button>
    </header>
    ${isOpen
      ? html`<ol class="lanes">
            ${answer.streams.map((stream, place) => html`<${Lane} key=${place} answer=${answer} stream=${stream} place=${place}
                isShown=${shown === place} onToggle=${() => setLane(shown === place ? -1 : place)} />`)}
          </ol>
          <${Tally} answer=${answer} />`
      : null}
    <${Spoken} answer=${answer} />
  </div>`;
}

/** What is happening, and how fast. @param {{answer: Answer}} properties */
export function Progress({ answer }) {
  const spent = spentTokens(answer);
  const limit = answer.routed?.limit_s;
  const elapsed = answer.result?.timing?.total_s ?? seconds(answer);
  const words = stage(answer);
  const rate = answer.first && !answer.result ? spent / Math.max(0.2, ((answer.ended ?? Date.now()) - answer.first) / 1000) : 0;
  return html`<p class="progress ${answer.phase}">
    <span class="now">${words}</span>
    ${answer.phase === 'reading' ? html`<progress max=${answer.reading.total} value=${answer.reading.done} aria-label="Prompt read" />` : null}
    <span class="figure">${duration(elapsed)}${limit ? ` of ${limit} s` : ''}</span>
    ${spent && !isOver(answer) ? html`<span class="figure spent">${count(spent)} tokens</span>` : null}
    ${rate ? html`<span class="figure">${rate.toFixed(0)} tok/s</span>` : null}
  </p>`;
}

/** @param {Answer} answer @returns {string} */
function stage(answer) {
  const running = answer.streams.filter((stream) => !stream.end).length;
  switch (answer.phase) {
    case 'sent':
      return 'Waiting';
    case 'queued':
      return answer.place > 0 ? `Queued, place ${answer.place}` : 'Queued';
    case 'reading':
      return `Reading ${count(answer.reading.done)} of ${count(answer.reading.total)}`;
    case 'thinking':
      if (answer.hurried) return 'Closing';
      if (!running) return 'Voting';
      return answer.streams.length > 1 ? `${running} of ${plural(answer.streams.length, 'stream')} running` : 'Thinking';
    case 'answering':
      return 'Answering';
    case 'stopped':
      return 'Stopped';
    case 'failed':
      return 'Failed';
    default:
      return answer.routed?.route === 'think' ? `Thought in ${plural(answer.streams.length, 'stream')}` : 'Answered';
  }
}

/** @param {{answer: Answer, stream: Stream, place: number, isShown: boolean, onToggle: () => void}} properties */
function Lane({ answer, stream, place, isShown, onToggle }) {
  const { end } = stream;
  const isCancelled = end?.stop === 'cancelled' || (!end && isOver(answer) && answer.phase !== 'done');
  const isWinner = answer.result?.winner === place && answer.streams.length > 1;
  const kind = isCancelled ? 'cancelled' : end ? 'ended' : stream.thought != null ? 'answering' : 'thinking';
  const share = used(answer, stream);
  const thought = stream.tokens ? ((stream.thought ?? stream.tokens) / stream.tokens) * share : 0;
  const limit = answer.routed.limit_tokens;
  return html`<li class="lane ${kind} ${isWinner ? 'winner' : ''}">
    <button type="button" class="line" aria-expanded=${isShown} onClick=${onToggle}>
      <span class="hidden">Stream ${place + 1}: ${said(stream, kind)}</span>
      <span class="number" aria-hidden="true">${isWinner ? html`<${Icon} name="check" />` : place + 1}</span>
      ${end && !isCancelled
        ? html`<span class="verdict" aria-hidden="true"><b>${end.answer || 'no answer'}</b><span class="why">${reason(end.stop)}</span></span>`
        : html`<span class="tail" aria-hidden="true"><span>${tail(stream)}</span></span>`}
      ${isCancelled ? html`<span class="score" aria-hidden="true">cancelled</span>` : null}
      ${end?.score != null && !isCancelled ? html`<span class="score" aria-hidden="true" title="The verifier’s score">${end.score.toFixed(2)}</span>` : null}
      <span class="tokens" aria-hidden="true">${count(stream.tokens)}${limit ? html`<i>/${count(limit)}</i>` : null}</span>
    </button>
    <div class="bar" role="meter" aria-label=${`Budget of stream ${place + 1}`} aria-valuemin="0" aria-valuemax="100"
        aria-valuenow=${Math.round(share * 100)} aria-valuetext=${limit ? `${stream.tokens} of ${limit} tokens` : `${Math.round(share * 100)} %`}>
      <span class="answered" style=${{ transform: `scaleX(${share})` }} />
      <span class="thought" style=${{ transform: `scaleX(${thought})` }} />
    </div>
    ${isShown ? html`<${Thinking} stream=${stream} place=${place} isRunning=${!isOver(answer) && !end} />` : null}
  </li>`;
}

/** A lane in words. @param {Stream} stream @param {string} kind */
function said({ end }, kind) {
  if (!end || kind === 'cancelled') return kind;
  return `answer ${end.answer || 'none'}${end.score == null ? '' : `, score ${end.score.toFixed(2)}`}`;
}

/** @param {string} stop why a stream ended, in a word; nothing if it just ended */
const reason = (stop) => ({ budget: 'closed by the budget', length: 'cut', empty: 'said nothing' })[stop] ?? '';

/** The end of what a stream says, on one line. @param {Stream} stream */
function tail(stream) {
  const text = stream.text || stream.thinking;
  const end = text.slice(-TAIL).replace(/<\/?think>/g, '').replace(/\s+/g, ' ').trim();
  return text.length > TAIL ? end.slice(end.indexOf(' ') + 1) : end;
}

/** All that a stream thought. @param {{stream: Stream, place: number, isRunning: boolean}} properties */
function Thinking({ stream, place, isRunning }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const isPinned = useRef(true);
  useLayoutEffect(() => {
    if (isRunning && isPinned.current) box.current.scrollTop = box.current.scrollHeight;
  });
  const follow = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    isPinned.current = scrollHeight - scrollTop - clientHeight < 24;
  };
  const text = stream.thinking.replace(/<\/?think>/g, '').trim();
  return html`<div class="thoughts" ref=${box} onScroll=${follow} tabindex="0" role="group" aria-label=${`Thinking of stream ${place + 1}`}>
    ${text ? text.split('\n').map((line, place) => html`<${Line} key=${place} text=${line} />`) : html`<p class="hint">Nothing yet.</p>`}
    ${stream.text && stream.end ? html`<p class="concluded">${stream.text.trim()}</p>` : null}
  </div>`;
}

/** Lines that are complete are not compared or laid out again. */
class Line extends Component {
  /** @param {{text: string}} next */
  shouldComponentUpdate(next) {
    return next.text !== this.props.text;
  }
  render() {
    return html`<p>${this.props.text}</p>`;
  }
}

/** How the vote stands. @param {{answer: Answer}} properties */
function Tally({ answer }) {
  const standing = answer.tally?.standing ?? [];
  if (!standing.length || answer.streams.length === 1) return null;
  const most = Math.max(...standing.map(([, strength]) => strength), 1e-9);
  return html`<div class="tally">
    <h3>Vote</h3>
    <ol>${standing.slice(0, 5).map(([text, strength], place) => html`<li key=${text} class=${place === 0 ? 'leads' : ''}>
      <b>${text || 'no answer'}</b>
      <span class="bar"><span class="strength" style=${{ transform: `scaleX(${strength / most})` }} /></span>
      <span class="figure">${Number.isInteger(strength) ? strength : strength.toFixed(2)}</span>
    </li>`)}</ol>
  </div>`;
}

/** The vote for those who hear the page: one sentence, said again only when it changes. @param {{answer: Answer}} properties */
function Spoken({ answer }) {
  const [leader] = answer.tally?.standing ?? [];
  const words = leader && answer.streams.length > 1
    ? `${leader[0] || 'no answer'} leads with ${Number(leader[1].toFixed(2))}, ${plural(answer.tally.running, 'stream')} running`
    : '';
  return html`<p class="hidden" aria-live="polite" aria-atomic="true">${words}</p>`;
}
