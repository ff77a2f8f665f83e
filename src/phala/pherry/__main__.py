"""`python -m phala.pherry`."""

from phala.pherry.main import main

if __name__ == "__main__":
    main()
