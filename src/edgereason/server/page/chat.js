/**
 * A conversation on the screen: questions, answers, and what can be done with them.
 */
import { Component } from './vendor/preact.js';
import { useEffect, useLayoutEffect, useRef, useState } from './vendor/hooks.js';
import { answerNow, ask, edit, regenerate, show, stop, thinkHarder } from './asking.js';
import { encodedTokens, harderThan, isOver, shownAnswer, spentTokens } from './conversation.js';
import { Route } from './dial.js';
import { lazy } from './lazy.js';
import { Progress, Race } from './race.js';
import { state } from './state.js';
import { Button, copy, count, duration, html, memory } from './ui.js';

/**
 * @typedef {import('./conversation.js').Answer} Answer
 * @typedef {import('./conversation.js').Conversation} Conversation
 * @typedef {import('./conversation.js').Turn} Turn
 */

const useMarkdown = lazy(() => import('./markdown.js'));

/** Nearer to the end than this, the page follows what comes. */
const FOLLOW_PX = 80;

/** @param {{conversation: Conversation}} properties */
export function Chat({ conversation }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const isFollowing = useRef(true);
  useLayoutEffect(() => {
    // Whatever makes the column grow, a text or a formula that is drawn later: its end stays in sight.
    const growth = new ResizeObserver(() => {
      if (isFollowing.current) box.current.scrollTop = box.current.scrollHeight;
    });
    growth.observe(box.current.firstElementChild);
    return () => growth.disconnect();
  }, []);
  useEffect(() => {
    isFollowing.current = true;
    box.current.scrollTop = box.current.scrollHeight;
  }, [conversation.turns.length]);
  const isBusy = state.running.has(conversation.id);
  useEffect(() => {
    // A button that was pressed may be gone: whoever uses the keyboard goes on from the conversation.
    if (document.activeElement === document.body) box.current.focus({ preventScroll: true });
  }, [isBusy]);
  const watch = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    isFollowing.current = scrollHeight - scrollTop - clientHeight < FOLLOW_PX;
  };
  return html`<div class="chat" ref=${box} onScroll=${watch} tabindex="0" role="region" aria-label="Conversation">
    <div class="column">
      ${conversation.turns.map((turn, place) => html`<${TurnView} key=${turn.id} conversation=${conversation} turn=${turn} place=${place}
          isLast=${place === conversation.turns.length - 1} isBusy=${isBusy}
          version=${`${turn.shown}/${turn.answers.length}/${shownAnswer(turn)?.version}`} />`)}
    </div>
  </div>`;
}

/** A turn is drawn again only if it, or what can be done with it, changed; one that runs has clocks. */
class TurnView extends Component {
  /** @param {any} next */
  shouldComponentUpdate(next) {
    const { version, isLast, isBusy, turn } = this.props;
    const answer = shownAnswer(next.turn);
    return version !== next.version || isLast !== next.isLast || isBusy !== next.isBusy || turn !== next.turn || (answer && !isOver(answer));
  }
  render() {
    const { conversation, turn, place, isLast, isBusy } = this.props;
    const answer = shownAnswer(turn);
    return html`<article class="turn">
      <${Question} conversation=${conversation} turn=${turn} place=${place} />
      ${answer ? html`<${AnswerView} key=${turn.shown} conversation=${conversation} turn=${turn} answer=${answer} isLast=${isLast} isBusy=${isBusy} />` : null}
    </article>`;
  }
}

/** @param {{conversation: Conversation, turn: Turn, place: number}} properties */
function Question({ conversation, turn, place }) {
  const [draft, setDraft] = useState(/** @type {string | null} */ (null));
  if (draft !== null) {
    const give = () => {
      if (!draft.trim()) return;
      setDraft(null);
      void edit(conversation, turn, draft.trim());
    };
    const onKey = (event) => {
      if (event.key === 'Escape') {
        event.stopPropagation();
        setDraft(null);
      } else if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        give();
      }
    };
    return html`<div class="question editing">
      <h2 class="hidden">Question ${place + 1}</h2>
      <textarea aria-label="Edit the question" rows=${Math.min(8, draft.split('\n').length + 1)} value=${draft}
        ref=${(field) => field && !field.dataset.met && ((field.dataset.met = '1'), field.focus())}
        onInput=${(event) => setDraft(event.target.value)} onKeyDown=${onKey} />
      <div class="row end">
        <${Button} icon="close" label="Cancel" onClick=${() => setDraft(null)} />
        <${Button} icon="send" kind="primary" label="Ask" onClick=${give} />
      </div>
    </div>`;
  }
  return html`<div class="question">
    <h2 class="hidden">Question ${place + 1}</h2>
    <p class="bubble">${turn.question}</p>
    <div class="tools">
      <${Button} bare icon="edit" label="Edit the question" onClick=${() => setDraft(turn.question)} />
      <${CopyButton} text=${turn.question} label="Copy the question" />
    </div>
  </div>`;
}

/** @param {{conversation: Conversation, turn: Turn, answer: Answer, isLast: boolean, isBusy: boolean}} properties */
function AnswerView({ conversation, turn, answer, isLast, isBusy }) {
  const isRunning = !isOver(answer);
  const isThinking = answer.routed?.route === 'think';
  const markdown = useMarkdown(); // loaded while the prompt is read
  return html`<div class="answer" role="group" aria-label="Answer">
    ${isThinking
      ? html`<${Race} answer=${answer} isLast=${isLast} />`
      : html`<div class="plain">${answer.routed?.p_think != null ? html`<${Route} routed=${answer.routed} />` : null}${isRunning || !answer.routed ? html`<${Progress} answer=${answer} />` : null}</div>`}
    ${isRunning
      ? html`<div class="row controls">
          ${isThinking && answer.phase === 'thinking'
            ? html`<${Button} icon="now" kind="primary" label=${answer.hurried ? 'Closing…' : 'Answer now'} disabled=${answer.hurried}
                title="Closes the thinking and answers with what there is" onClick=${() => answerNow(conversation)} />`
            : null}
          <${Button} icon="stop" label="Stop" onClick=${() => stop(conversation)} />
        </div>`
      : null}
    ${answer.notices.map((text) => html`<p class="notice">${text}</p>`)}
    <div class="text" aria-live="polite" aria-busy=${isRunning}>
      ${answer.text ? (markdown ? html`<${markdown.Markdown} text=${answer.text} />` : html`<div class="markdown"><p>${answer.text}</p></div>`) : null}
      ${answer.phase === 'done' && !answer.text ? html`<p class="notice">The model said nothing.</p>` : null}
      ${answer.phase === 'stopped' ? html`<p class="notice">Stopped${answer.text ? '' : ' before an answer'}.</p>` : null}
      ${answer.error ? html`<p class="problem">${answer.error}</p>` : null}
    </div>
    ${isRunning ? null : html`<${Footer} conversation=${conversation} turn=${turn} answer=${answer} isLast=${isLast} isBusy=${isBusy} />`}
  </div>`;
}

/** What it took, and what can be done next. @param {{conversation: Conversation, turn: Turn, answer: Answer, isLast: boolean, isBusy: boolean}} properties */
function Footer({ conversation, turn, answer, isLast, isBusy }) {
  const harder = harderThan(answer);
  return html`<footer>
    <${Figures} answer=${answer} />
    <div class="tools">
      ${isLast && harder
        ? html`<${Button} icon="harder" kind="accent" label="Think harder" disabled=${isBusy} title=${`${raisedWords(harder)}; the prompt is kept`} onClick=${() => thinkHarder(conversation, turn)} />`
        : null}
      ${isLast ? html`<${Button} bare icon="again" label="Answer again" disabled=${isBusy} onClick=${() => regenerate(conversation, turn)} />` : null}
      ${answer.text ? html`<${CopyButton} text=${answer.text} label="Copy the answer" />` : null}
      ${turn.answers.length > 1 ? html`<${Pager} conversation=${conversation} turn=${turn} />` : null}
    </div>
  </footer>`;
}

/** @param {import('./conversation.js').Asked} options */
function raisedWords({ effort, budget, streams }) {
  const limit = budget ? `budget ${typeof budget === 'number' ? `${count(budget)} tokens` : budget}` : effort ? `effort ${effort}` : '';
  return [limit, streams && streams > 1 ? `${streams} streams` : ''].filter(Boolean).join(', ') || 'Thinks';
}

/** @param {{answer: Answer}} properties */
function Figures({ answer }) {
  const { result } = answer;
  if (!result) return html`<p class="figures" />`;
  const timing = result.timing ?? {};
  const encoded = encodedTokens(answer);
  const figures = [
    timing.tokens_per_s != null && [`${timing.tokens_per_s.toFixed(1)} tok/s`, 'Tokens of all streams in a second'],
    [`${count(spentTokens(answer))} tokens`, 'Tokens of all streams'],
    timing.ttft_s != null && [`first token ${duration(timing.ttft_s)}`, 'Seconds to the first token'],
    timing.total_s != null && [duration(timing.total_s), 'Seconds in all'],
    result.kv_bytes && [`${memory(result.kv_bytes)} KV`, 'Memory of keys and values, at most'],
    encoded != null && [`${count(encoded)} prompt ${encoded === 1 ? 'token' : 'tokens'} encoded`, `The prompt has ${count(result.usage.prompt)} tokens; the others were kept`, encoded === 0 ? 'kept' : ''],
    result.stop && result.stop !== 'natural' && [result.stop === 'budget' ? 'closed by the budget' : result.stop, 'Why the answer ended'],
  ].filter(Boolean);
  return html`<p class="figures">${figures.map(([words, title, kind]) => html`<span class=${kind ?? ''} title=${title}>${words}</span>`)}</p>`;
}

/** A turn's answers, one at a time. @param {{conversation: Conversation, turn: Turn}} properties */
function Pager({ conversation, turn }) {
  return html`<span class="pager">
    <${Button} bare icon="left" label="Earlier answer" disabled=${turn.shown === 0} onClick=${() => show(conversation, turn, turn.shown - 1)} />
    <span class="figure">${turn.shown + 1}/${turn.answers.length}</span>
    <${Button} bare icon="chevron" label="Later answer" disabled=${turn.shown === turn.answers.length - 1} onClick=${() => show(conversation, turn, turn.shown + 1)} />
  </span>`;
}

/** @param {{text: string, label: string}} properties */
function CopyButton({ text, label }) {
  const [isCopied, setCopied] = useState(false);
  const take = async () => {
    await copy(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<${Button} bare icon=${isCopied ? 'check' : 'copy'} label=${isCopied ? 'Copied' : label} onClick=${take} />`;
}

const EXAMPLES = [
  'Tom has 3 boxes with 8 pencils each. He gives 5 pencils to each of his 2 friends. How many pencils are left?',
  'Sara reads 15 pages a day for 6 days and then 20 pages a day for 3 days. How many pages did she read?',
  'What is a prime number?',
];

/** Where a conversation begins. */
export function Welcome() {
  const { info } = state;
  return html`<div class="chat welcome"><div class="column">
    <h2>What should it think about?</h2>
    <p class="lead">${info ? html`${info.model.name}, on this machine. ` : null}Several streams think side by side, each within its budget, and vote.</p>
    <ul>${EXAMPLES.map((text) => html`<li><button type="button" class="example" onClick=${() => ask(text)}>${text}</button></li>`)}</ul>
  </div></div>`;
}
