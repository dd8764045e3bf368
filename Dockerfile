FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY supernet supernet
COPY latency_tables latency_tables
COPY search search
COPY service service
RUN pip install --no-cache-dir . && useradd --create-home onceforall && mkdir /data && chown onceforall /data
USER onceforall
EXPOSE 8000
CMD ["onceforall", "serve"]
