.PHONY: help
help:
	@echo x
