"""The game's tables where they do not exist, and our own in the schema ``mmo_rl``."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# One entry a table: its columns, then its indexes, which are created only with the table: to build an index on a
# live game's table would block its writers.
GAME_TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "trajectories": (
        """
        id text primary key,
        "trajectoryId" text not null,
        "agentId" text not null,
        "startTime" timestamp(3) not null,
        "endTime" timestamp(3) not null,
        "durationMs" integer not null,
        "windowId" varchar(50),
        "windowHours" integer not null default 1,
        "episodeId" varchar(100),
        "scenarioId" varchar(100),
        "batchId" varchar(100),
        archetype text,
        "stepsJson" text not null,
        "rewardComponentsJson" text not null,
        "metricsJson" text not null,
        "metadataJson" text not null,
        "totalReward" double precision not null,
        "episodeLength" integer not null,
        "finalStatus" text not null,
        "finalBalance" double precision,
        "finalPnL" double precision,
        "tradesExecuted" integer,
        "postsCreated" integer,
        "aiJudgeReward" double precision,
        "aiJudgeReasoning" text,
        "judgedAt" timestamp(3),
        "isTrainingData" boolean not null default true,
        "isEvaluation" boolean not null default false,
        "usedInTraining" boolean not null default false,
        "trainedInBatch" text,
        "createdAt" timestamp(3) not null default current_timestamp,
        "updatedAt" timestamp(3) not null
        """,
        (
            'create unique index "trajectories_trajectoryId_key" on trajectories ("trajectoryId")',
            'create index "trajectories_agentId_startTime_idx" on trajectories ("agentId", "startTime")',
            'create index "trajectories_aiJudgeReward_idx" on trajectories ("aiJudgeReward")',
            'create index "trajectories_isTrainingData_usedInTraining_idx"'
            ' on trajectories ("isTrainingData", "usedInTraining")',
            'create index "trajectories_scenarioId_createdAt_idx" on trajectories ("scenarioId", "createdAt")',
            'create index "trajectories_trainedInBatch_idx" on trajectories ("trainedInBatch")',
            'create index "trajectories_windowId_agentId_idx" on trajectories ("windowId", "agentId")',
            'create index "trajectories_windowId_idx" on trajectories ("windowId")',
        ),
    ),
    "llm_call_logs": (
        """
        id text primary key,
        "trajectoryId" text not null,
        "stepId" text not null,
        "callId" text not null,
        "timestamp" timestamp(3) not null,
        "latencyMs" integer,
        model text not null,
        purpose text not null,
        "actionType" text,
        "systemPrompt" text not null,
        "userPrompt" text not null,
        "messagesJson" text,
        response text not null,
        reasoning text,
        temperature double precision not null,
        "maxTokens" integer not null,
        "topP" double precision,
        "promptTokens" integer,
        "completionTokens" integer,
        "totalTokens" integer,
        metadata text,
        "createdAt" timestamp(3) not null default current_timestamp
        """,
        (
            'create unique index "llm_call_logs_callId_key" on llm_call_logs ("callId")',
            'create index llm_call_logs_timestamp_idx on llm_call_logs ("timestamp")',
            'create index "llm_call_logs_trajectoryId_idx" on llm_call_logs ("trajectoryId")',
        ),
    ),
    "market_outcomes": (
        """
        id text primary key,
        "windowId" varchar(50) not null,
        "stockTicker" varchar(20),
        "startPrice" numeric(10,2),
        "endPrice" numeric(10,2),
        "changePercent" numeric(5,2),
        sentiment varchar(20),
        "newsEvents" jsonb,
        "predictionMarketId" text,
        question text,
        outcome varchar(20),
        "finalProbability" numeric(5,4),
        volume numeric(15,2),
        "createdAt" timestamp(3) not null default current_timestamp
        """,
        (
            'create index "market_outcomes_windowId_idx" on market_outcomes ("windowId")',
            'create index "market_outcomes_windowId_stockTicker_idx" on market_outcomes ("windowId", "stockTicker")',
        ),
    ),
    "training_batches": (
        """
        id text primary key,
        "batchId" text not null,
        "scenarioId" text,
        "baseModel" text not null,
        "modelVersion" text not null,
        "trajectoryIds" text not null,
        "rankingsJson" text,
        "rewardsJson" text not null,
        "trainingLoss" double precision,
        "policyImprovement" double precision,
        status text not null default 'pending',
        error text,
        "createdAt" timestamp(3) not null default current_timestamp,
        "startedAt" timestamp(3),
        "completedAt" timestamp(3)
        """,
        (
            'create unique index "training_batches_batchId_key" on training_batches ("batchId")',
            'create index "training_batches_scenarioId_idx" on training_batches ("scenarioId")',
            'create index "training_batches_status_createdAt_idx" on training_batches (status, "createdAt")',
        ),
    ),
    "trained_models": (
        """
        id text primary key,
        "modelId" text not null,
        version text not null,
        "baseModel" text not null,
        "trainingBatch" text,
        status text not null default 'training',
        "deployedAt" timestamp(3),
        "archivedAt" timestamp(3),
        "storagePath" text not null,
        "benchmarkScore" double precision,
        accuracy double precision,
        "avgReward" double precision,
        "evalMetrics" jsonb,
        "wandbRunId" text,
        "wandbArtifactId" text,
        "agentsUsing" integer not null default 0,
        "totalInferences" integer not null default 0,
        "createdAt" timestamp(3) not null default current_timestamp,
        "updatedAt" timestamp(3) not null
        """,
        (
            'create unique index "trained_models_modelId_key" on trained_models ("modelId")',
            'create index "trained_models_deployedAt_idx" on trained_models ("deployedAt")',
            "create index trained_models_status_idx on trained_models (status)",
            "create index trained_models_version_idx on trained_models (version)",
        ),
    ),
    "reward_judgments": (
        """
        id text primary key,
        "trajectoryId" text not null
            references trajectories ("trajectoryId") on update cascade on delete cascade,
        "judgeModel" text not null,
        "judgeVersion" text not null,
        "overallScore" double precision not null,
        "componentScoresJson" text,
        rank integer,
        "normalizedScore" double precision,
        "groupId" text,
        reasoning text not null,
        "strengthsJson" text,
        "weaknessesJson" text,
        "criteriaJson" text not null,
        "judgedAt" timestamp(3) not null default current_timestamp
        """,
        (
            'create unique index "reward_judgments_trajectoryId_key" on reward_judgments ("trajectoryId")',
            'create index "reward_judgments_groupId_rank_idx" on reward_judgments ("groupId", rank)',
            'create index "reward_judgments_overallScore_idx" on reward_judgments ("overallScore")',
        ),
    ),
}

OWN_TABLES = (
    # Blocks of simulated hours never overlap: a window id names one market.
    """
    create table mmo_rl.worlds (
        scenario_id text primary key,
        "start" timestamptz not null,
        "end" timestamptz not null,
        created_at timestamptz not null default now(),
        check ("start" < "end"),
        exclude using gist (tstzrange("start", "end") with &&)
    )
    """,
    """
    create table mmo_rl.judgments (
        key text primary key,
        payload jsonb not null,
        created_at timestamptz not null default now()
    )
    """,
)


def upgrade() -> None:
    connection = op.get_bind()
    for table, (columns, indexes) in GAME_TABLES.items():
        if connection.exec_driver_sql(f"select to_regclass('{table}') is not null").scalar():
            continue
        connection.exec_driver_sql(f"create table {table} ({columns})")
        for index in indexes:
            connection.exec_driver_sql(index)
    for statement in OWN_TABLES:
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    raise NotImplementedError("the tables hold recordings: they are never dropped from here")
