PYTHON_IMAGE ?= python:3.11-slim
IMAGE ?= trouped:latest

.PHONY: image image-test wheelhouse up down

image:          ## the container image; uses ./wheelhouse when there is one
	docker build --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) -t $(IMAGE) .

wheelhouse:     ## wheels of everything the image needs, for a build without a network
	$(PYTHON) -m pip wheel --wheel-dir=wheelhouse . 'setuptools>=68' wheel
	rm -f wheelhouse/trouped-*.whl

image-test:     ## builds the image and breaks three members in containers; skips without an engine
	PYTHON_IMAGE=$(PYTHON_IMAGE) $(PYTHON) -m pytest -m slow -rs tests/image

up:             ## three members in containers
	docker compose up --detach --build --wait

down:
	docker compose down
