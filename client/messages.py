"""What goes into a generation and what comes out of it, as Python values.

Knows nothing of channels and calls. The type hints are what names and kinds are checked by before anything is sent;
ranges are the service's to check. Both end with `InvalidRequest`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

from qllm.client.kinds import Bits
from qllm.client.tools import Tool, ToolCall, ToolChoice


class RequestClass(StrEnum):
    """Who is waiting for the answer."""

    LATENCY_SENSITIVE = "ls"
    BEST_EFFORT = "be"


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation; `role` is "system", "user", "assistant" or another that the model's template has.

    Attributes:
        name: Who speaks, among several of one role.
        tool_calls: The functions that an assistant's turn calls.
        tool_call_id: The call whose result the turn of a tool is.
        reasoning: What an assistant thought before.
    """

    role: str
    content: str = ""
    name: str = ""
    tool_calls: Sequence[ToolCall | Mapping[str, Any]] = ()
    tool_call_id: str = ""
    reasoning: str = ""


Prompt = str | Sequence[int] | Sequence[ChatMessage | Mapping[str, Any]]
"""Plain text, token ids, or a conversation (`ChatMessage`, or mappings as in OpenAI's API), oldest turn first."""


class GenerateOptions(TypedDict, total=False):
    """Keyword arguments of `generate`; what is left out, or None, takes the service's default.

    Attributes:
        request_class: Who is waiting; latency-sensitive if left out.
        request_id: A name to abort by, unique among live requests; the service makes one if left out.
        max_tokens: Most tokens to generate; 0, with num_prompt_logprobs, for none.
        min_tokens: Tokens before which no end-of-sequence or stop token ends the text.
        ignore_eos: Go on past the model's end-of-sequence token.
        stop: Strings that end the text; they are not part of it.
        stop_token_ids: Further token ids that end the text.
        include_stop_string: Makes what ended the text, a stop string or a stop token's text, a part of it.
        temperature: Divides the logits; 0 takes the most probable token.
        top_k: Keeps the k most probable tokens; 0 keeps all.
        top_p: Keeps the smallest set of tokens whose probability reaches this.
        min_p: Keeps tokens at least this fraction as probable as the most probable one.
        typical_p: Keeps the smallest set of typical tokens whose probability reaches this; 1 keeps all.
        seed: Makes sampling repeatable.
        repetition_penalty: Makes tokens that prompt or output have less likely, above 1.
        presence_penalty: Is taken from the logits of tokens that the output has.
        frequency_penalty: Is taken from them as often as the output has each.
        logit_bias: What is added to the logits of tokens.
        allowed_token_ids: The only tokens that may be chosen.
        bad_words: Words that the output shall not have.
        json_schema: Keeps the text to JSON of this schema, an object or JSON.
        json_object: Keeps the text to a JSON object.
        regex: Keeps the text to one that this regular expression matches.
        choices: Keeps the text to one of these.
        lark: Keeps the text to this grammar.
        tools: Functions that the answer to a conversation may call; mappings may be in OpenAI's form.
        tool_choice: Whether it calls one: "auto", "none", "required", or a mapping that names one.
        required_tool: The function that it must call, once.
        single_call: Whether it ends with its first call.
        template_variables: What the chat template is given besides, such as enable_thinking.
        reasoning_effort: How much the model is to think, where its template knows of that.
        continue_final_message: Goes on with the last message instead of following it; with add_generation_prompt False.
        add_generation_prompt: Whether the prompt ends with the beginning of an answer; it does if left out.
        add_special_tokens: Whether the tokenizer's own special tokens are put around a text; they are if left out.
        num_top_logprobs: With each token come so many of the most probable ones at its place.
        num_prompt_logprobs: Tells how probable each token of the prompt is, with so many of the most probable ones.
        truncate_prompt_tokens: Keeps only so many tokens of the prompt, its last ones; -1: as many as fit.
        num_choices: Answers with so many texts, drawn beside one another, each by a seed of its own; 1 if left out.
        best_of: Draws so many texts, and answers with the num_choices whose tokens are most probable on average, best
            first, at the end.
        show_special_tokens: Makes special tokens a part of the text.
        beam_width: Searches for the most probable texts, so many beside one another, instead of sampling one.
        num_returned: How many of the texts found are returned; 1 if left out. It goes along with beam_width, as do the
            next three.
        length_penalty: Above 0 longer texts gain, below 0 shorter ones; 1 if left out.
        early_stopping: Ends a search that has enough texts at once (True), when none that goes on would be better if it
            ended (False), or when none could become better ("never"); False if left out.
        patience: Wants beam_width times so many texts before a search may end; 1 if left out.
        ttft_ms: Milliseconds to the first token that a latency-sensitive request asks for; 0: as soon as possible.
        tpot_ms: Milliseconds from token to token that it asks for; 0: as soon as possible.
        cache_salt: Keeps what is cached of it apart: only requests of the same salt reuse it.
        session_id: Names the conversation, or agent's program, that this is a turn of; what is cached of it may then be
            kept for the next turn.
        expects_tool_call: Name of the tool that the answer is expected to call, after which the next turn comes.
        last_turn: Whether no turn follows, so that nothing is kept.
        timeout_s: Seconds until the call ends with `DeadlineExceeded`, on the server too; None: no limit. With little
            time left a latency-sensitive request goes ahead of others.
    """

    request_class: RequestClass | Literal["ls", "be"]
    request_id: str
    max_tokens: int | None
    min_tokens: int | None
    ignore_eos: bool
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    include_stop_string: bool
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    seed: Annotated[int, Bits(64)] | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    allowed_token_ids: Sequence[int] | None
    bad_words: Sequence[str] | None
    json_schema: Mapping[str, object] | str | None
    json_object: bool
    regex: str | None
    choices: Sequence[str] | None
    lark: str | None
    tools: Sequence[Tool | Mapping[str, Any]]
    tool_choice: ToolChoice | Literal["auto", "none", "required"] | Mapping[str, Any] | None
    required_tool: str | None
    single_call: bool
    template_variables: Mapping[str, object] | None
    reasoning_effort: str | None
    continue_final_message: bool
    add_generation_prompt: bool | None
    add_special_tokens: bool | None
    num_top_logprobs: int
    num_prompt_logprobs: int | None
    truncate_prompt_tokens: int | None
    num_choices: int | None
    best_of: int | None
    show_special_tokens: bool
    beam_width: int | None
    num_returned: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    patience: float | None
    ttft_ms: float | None
    tpot_ms: float | None
    cache_salt: str | None
    session_id: str | None
    expects_tool_call: str | None
    last_turn: bool
    timeout_s: float | None


class TokenLogprob(NamedTuple):
    """A token that might have been chosen, with the natural logarithm of its probability."""

    token_id: int
    logprob: float


class PromptToken(NamedTuple):
    """A token of the prompt, and how probable it was behind those before it.

    Attributes:
        token_id: The token.
        logprob: The natural logarithm of its probability in the model's own distribution.
        rank: Its place among all tokens by probability; 1 is the most probable one's.
        alternatives: The most probable tokens at its place, as many as were asked for.
    """

    token_id: int
    logprob: float
    rank: int
    alternatives: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that a beam search found.

    Attributes:
        text: The text.
        token_ids: Its tokens.
        logprobs: Natural logarithm of each token's probability in the model's own distribution.
        score: What it was ranked by: its summed log-probability, with the length penalty.
        finish_reason: Why it ended.
        stop_string: The stop string that was met, or None.
        tool_calls: The functions that it calls.
        reasoning: What the model thought, which is no part of the text.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: float
    finish_reason: FinishReason
    stop_string: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one message of a stream added; `text` may be empty while tokens do not complete a character.

    Attributes:
        top_logprobs: The most probable tokens at the place of each token, if asked for.
        tool_calls: Calls that were completed, each whole.
        reasoning: Thoughts, which are no part of the text.
        prompt_logprobs: Tokens of the prompt, if asked for; all come before the first generated one.
        hypotheses: The texts that a beam search found, best first; the other fields are the best one's.
        choice_index: The choice that it adds to, where several were asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    prompt_logprobs: tuple[PromptToken, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    choice_index: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What the service says that a generation used; its fields are those of `qllm.v1.Usage`.

    Attributes:
        cached_tokens: Tokens of the prompt that were not computed, since their K/V was there already.
    """

    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    num_preemptions: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A whole generation; of several choices the first one, which has the others.

    Attributes:
        request_id: The id that the service knew it by.
        text: All text.
        token_ids: All generated token ids.
        logprobs: Natural logarithm of each token's probability in the model's own distribution.
        finish_reason: Why it ended.
        stop_string: The stop string that was met, or None.
        usage: The service's own counts and times.
        ttft_s: Seconds from the call to its first token, as this process saw it; None if no token came.
        e2e_s: Seconds from the call to its end, as this process saw it.
        top_logprobs: The most probable tokens at the place of each token, if asked for.
        tool_calls: The functions that the answer calls.
        reasoning: What the model thought before, which is no part of the text.
        prompt_logprobs: All tokens of the prompt but the first, which stands behind nothing, if asked for.
        hypotheses: The texts that a beam search found, best first; the other fields are the best one's.
        others: The further choices, where several were asked for; best first with best_of.
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    stop_string: str | None
    usage: Usage
    ttft_s: float | None
    e2e_s: float
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    prompt_logprobs: tuple[PromptToken, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    others: tuple["GenerationResult", ...] = ()

    @property
    def choices(self) -> tuple["GenerationResult", ...]:
        """All choices, of which this is the first; itself alone where one was asked for."""
        return (self, *self.others)
