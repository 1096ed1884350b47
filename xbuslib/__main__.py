from xbuslib.cli import main

main()
