"""A page's questions, answered in threads: of each kind the latest wins, and nothing queues.

A lane is one kind of question of one page, such as the picture for a slider's position. While one is answered, the
next waits, and whichever comes after takes its place. A page has few threads at a time, and waits for its own slow line
alone: what was found is sent before the next is asked, so a page that does not listen makes nobody compute.
"""

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

from lowerbound.devices import out_of_memory
from lowerbound.errors import UserError
from lowerbound.explorer.messages import Answer, Question, dropped, failed, frame
from lowerbound.explorer.panels.base import Answers
from lowerbound.explorer.uploads import Gone

AT_ONCE = 2  # questions of one page
PAUSE = 1.0  # seconds until one that has nothing new is asked again
NOTHING_MORE = object()
NO_MEMORY = "there is not enough memory for it here"

Send = Callable[[bytes], Awaitable[None]]
Find = Callable[[Question], Answers]


class Lanes:
    """Those of one page.

    find: what answers a question, in a thread. send: brings a frame to the page.
    """

    def __init__(self, find: Find, send: Send, pool: ThreadPoolExecutor):
        self.find = find
        self.send = send
        self.pool = pool
        self.turn = asyncio.Semaphore(AT_ONCE)
        self._waiting: dict[tuple[str, str, int], Question] = {}
        self._tasks: dict[tuple[str, str, int], asyncio.Task[None]] = {}

    async def put(self, question: Question) -> None:
        """Ask; whatever waits of the same kind is dropped."""
        lane = (question.panel, question.do, question.slot)
        before = self._waiting.get(lane)
        self._waiting[lane] = question
        if before is not None:
            await self.send(dropped(before.id))
        if lane not in self._tasks:
            self._tasks[lane] = asyncio.create_task(self._run(lane))

    async def close(self) -> None:
        """Ends what runs, as soon as it comes to its next step."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, lane: tuple[str, str, int]) -> None:
        try:
            with suppress(ConnectionError):  # whoever asked is gone
                while lane in self._waiting:
                    async with self.turn:
                        question = self._waiting.pop(lane)
                        await self._answered(lane, question)
        finally:
            del self._tasks[lane]

    async def _answered(self, lane: tuple[str, str, int], question: Question) -> None:
        try:
            found = await self._in_thread(lambda: self.find(question))
            if isinstance(found, Answer):
                return await self.send(frame(found, question.id))
            await self._several(lane, question, found)
        except Gone as e:
            await self.send(failed(question.id, str(e), "gone"))
        except UserError as e:
            await self.send(failed(question.id, str(e)))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as e:
            if out_of_memory(e):
                return await self.send(failed(question.id, NO_MEMORY))
            traceback.print_exc(file=sys.stderr)
            await self.send(failed(question.id, f"internal error: {type(e).__name__}; the terminal says more"))

    async def _several(self, lane: tuple[str, str, int], question: Question, answers: Iterator[Answer | None]) -> None:
        """Sends what an action yields, until it is over or a newer question has come."""
        try:
            while (answer := await self._in_thread(lambda: next(answers, NOTHING_MORE))) is not NOTHING_MORE:
                if answer is None:
                    self.turn.release()  # others of the page may go on meanwhile
                    try:
                        await asyncio.sleep(PAUSE)
                    finally:
                        await self.turn.acquire()
                elif isinstance(answer, Answer):
                    await self.send(frame(answer, question.id, more=True))
                if lane in self._waiting:
                    return await self.send(dropped(question.id))
            await self.send(frame(Answer(), question.id))
        finally:
            with suppress(ValueError):  # it runs in its thread yet, of a page that is gone
                getattr(answers, "close", lambda: None)()

    def _in_thread(self, do: Callable[[], object]) -> asyncio.Future:
        def done() -> object:
            with torch.no_grad():  # which is a thread's own
                return do()

        return asyncio.get_running_loop().run_in_executor(self.pool, done)
