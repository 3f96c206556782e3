"""The list of the stores that are compared."""

from bench.peers.adk_store import Adk, AdkPostgres
from bench.peers.agents_sdk import AgentsAdvancedSQLite, AgentsSQLAlchemy, AgentsSQLAlchemyPostgres, AgentsSQLite
from bench.peers.agno_store import Agno, AgnoPostgres
from bench.peers.bare_drivers import BarePostgres, BareSQLite
from bench.peers.convstore_stores import (
    ConvstoreAppend,
    ConvstoreAppendPostgres,
    ConvstoreSay,
    ConvstoreSayPostgres,
)
from bench.peers.langchain_stores import LangChain, LangChainPostgres, LangGraphPostgres, LangGraphSQLite
from bench.peers.llama_index_store import LlamaIndex, LlamaIndexPostgres
from bench.peers.llm_logs import Llm
from bench.peers.peer_store import PeerStore
from bench.peers.pydantic_harness import PydanticHarness

STORES: tuple[type[PeerStore], ...] = (
    BareSQLite,
    ConvstoreSay,
    ConvstoreAppend,
    AgentsSQLite,
    AgentsAdvancedSQLite,
    AgentsSQLAlchemy,
    LangChain,
    LangGraphSQLite,
    Adk,
    LlamaIndex,
    PydanticHarness,
    Agno,
    Llm,
    BarePostgres,
    ConvstoreSayPostgres,
    ConvstoreAppendPostgres,
    AgentsSQLAlchemyPostgres,
    LangChainPostgres,
    LangGraphPostgres,
    AdkPostgres,
    LlamaIndexPostgres,
    AgnoPostgres,
)
"""Every store; the first of each backend is what the others are compared with."""


def select_stores(backend: str) -> list[type[PeerStore]]:
    """Return the stores on one backend, the bare driver first."""
    return [store for store in STORES if store.backend == backend]


def find_store(class_name: str) -> type[PeerStore]:
    """Return the store with this class name."""
    return next(store for store in STORES if store.__name__ == class_name)
